//! The relay over glommio's TCP: an executor per core, a task per direction, as its documentation would have it.
//!
//! The settings are those that measured best for it. Where io_uring is forbidden glommio panics, and the relay with it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream as Stream;
use glommio::{LocalExecutorBuilder, Placement, spawn_local};

use super::Pair;

/// What one direction holds at most: nothing more is read before it is written.
const BUFFER_BYTES: usize = 16 * 1024;
/// A shorter period costs up to half as much again.
const PREEMPT: Duration = Duration::from_millis(50);

/// Relays until every pair has ended, on `cpu` where one is named. Errs when there is no executor to be had.
pub fn run(pairs: Vec<Pair>, cpu: Option<usize>) -> io::Result<()> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement).preempt_timer(PREEMPT).make().map_err(io::Error::from)?;
    executor.run(async {
        let mut tasks = Vec::new();
        for pair in pairs {
            let pair = Rc::new(pair);
            for (from, to) in [(&pair.client, &pair.upstream), (&pair.upstream, &pair.client)] {
                let (from, to, pair) = (stream(from)?, stream(to)?, pair.clone());
                tasks.push(spawn_local(async move {
                    if relay(from, to).await.is_err() {
                        // The other direction's task finds its streams ended.
                        pair.client.shutdown(Shutdown::Both).ok();
                        pair.upstream.shutdown(Shutdown::Both).ok();
                    }
                }));
            }
        }
        for task in tasks {
            task.await;
        }
        Ok(())
    })
}

/// A descriptor of its own, so that both directions of a socket can wait at once.
fn stream(tcp: &TcpStream) -> io::Result<Stream> {
    let fd = tcp.try_clone()?.into_raw_fd();
    // SAFETY: the descriptor is a fresh one of a TCP socket, and from here on the stream alone owns it.
    Ok(unsafe { Stream::from_raw_fd(fd) })
}

async fn relay(mut from: Stream, mut to: Stream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.close().await;
        }
        to.write_all(&buffer[..len]).await?;
    }
}
