//! Files read and written by direct I/O on a glommio executor: no page cache between the store and the disk, and no copy of the log in
//! memory that nobody asked for.
//!
//! The executor lives on the storage thread, is made once, and runs for the length of one operation. Where io_uring is forbidden glommio
//! panics instead of erring: whoever calls `open` knows that a ring works.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::{DmaFile, OpenOptions, ReadResult};
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit};

use super::folder::Folder;
use super::plain::OPEN_FILES_MAX;
use crate::store::disk::{Disk, Name};
use crate::store::format::BLOCK;

/// glommio refuses to start below this much lockable memory.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Pinned for small buffers; larger ones are allocated as they are needed.
const IO_MEMORY: usize = 64 << 10;
const RING_DEPTH: usize = 128;
const PREEMPT: Duration = Duration::from_millis(50);

/// One request of the kernel's; what is longer goes in pieces, several under way at a time. Each write that makes a file longer wakes a worker of the
/// kernel's, and they wait for each other.
const PIECE_BYTES: usize = 1 << 20;
const PIECES_MAX: usize = 4;

/// Handles are shared with the operation that is under way.
pub struct Direct {
    executor: LocalExecutor,
    folder: Folder,
    open: RefCell<HashMap<Name, Rc<DmaFile>>>,
}

impl Direct {
    /// Errs where direct I/O does not work in this folder: it is tried out on a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(limit) = getrlimit(Resource::Memlock).current.filter(|it| *it < MEMLOCK_MIN) {
            return Err(io::Error::other(format!(
                "locked memory is limited to {limit} bytes, {MEMLOCK_MIN} are needed"
            )));
        }
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name("storage")
            .io_memory(IO_MEMORY)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT)
            .make()
            .map_err(io::Error::from)?;
        let mut direct = Self { executor, folder: Folder::open(path)?, open: RefCell::default() };
        direct.try_out()?;
        Ok(direct)
    }

    /// A file that cannot be in use: an identity is written under this name and renamed.
    fn try_out(&mut self) -> io::Result<()> {
        let (name, mut read) = (Name::IdentityNew, Vec::new());
        let written = [0x5a; 2 * BLOCK];
        // The first file that glommio opens on a device must have something in it: it reads a block to find out whether the device can be
        // polled, takes the end of an empty file for a yes, and every later read would fail.
        let plain = std::fs::File::create(self.folder.path(name))?;
        plain.write_all_at(&[0; BLOCK], 0)?;
        plain.sync_all()?;
        let result = self
            .write_at(name, 0, &written)
            .and_then(|()| self.sync(name))
            .and_then(|()| self.read_at(name, BLOCK as u64, 2 * BLOCK, &mut read));
        self.remove(name)?;
        result?;
        if read == written[BLOCK..] { Ok(()) } else { Err(io::Error::other("direct I/O gives back other bytes")) }
    }

    /// Closes what is open, so that the file can be changed by name.
    fn close(&self, name: Name) -> io::Result<()> {
        let Some(file) = self.open.borrow_mut().remove(&name) else { return Ok(()) };
        self.executor.run(async { file.close_rc().await.map(drop).map_err(io::Error::from) })
    }

    fn close_all(&self) -> io::Result<()> {
        let names: Vec<Name> = self.open.borrow().keys().copied().collect();
        names.into_iter().try_for_each(|name| self.close(name))
    }

    /// The handle of a file; opened inside the executor if it was not.
    async fn handle(&self, name: Name) -> io::Result<Rc<DmaFile>> {
        if let Some(file) = self.open.borrow().get(&name) {
            return Ok(file.clone());
        }
        let path = self.folder.path(name);
        let file = Rc::new(OpenOptions::new().read(true).write(true).dma_open(&path).await.map_err(into_io)?);
        self.open.borrow_mut().insert(name, file.clone());
        Ok(file)
    }

    fn make_room_for(&self, name: Name) -> io::Result<()> {
        let full = self.open.borrow().len() >= OPEN_FILES_MAX && !self.open.borrow().contains_key(&name);
        if full { self.close_all() } else { Ok(()) }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // A handle must be closed on the executor; what was written is in the kernel already.
        let _ = self.close_all();
    }
}

fn into_io(error: GlommioError<()>) -> io::Error {
    error.into()
}

/// Writes one piece, however many requests it takes.
async fn write_piece(file: &DmaFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let mut buffer = file.alloc_dma_buffer(bytes.len() - done);
        buffer.as_bytes_mut().copy_from_slice(&bytes[done..]);
        let written = file.write_at(buffer, offset + done as u64).await.map_err(into_io)?;
        // A disk that is full takes a part; what is left must begin at a block again.
        let whole = written - written % BLOCK;
        if whole == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        done += whole;
    }
    Ok(())
}

/// Reads one piece, in as many parts as the kernel gives it; shorter only at the end of the file.
async fn read_piece(file: &DmaFile, offset: u64, len: usize) -> io::Result<Vec<ReadResult>> {
    let (mut parts, mut done) = (Vec::new(), 0);
    while done < len {
        let read = file.read_at_aligned(offset + done as u64, len - done).await.map_err(into_io)?;
        done += read.len();
        // Direct I/O gives part of a block at the end of the file only.
        let is_end = read.is_empty() || !read.len().is_multiple_of(BLOCK);
        parts.push(read);
        if is_end {
            break;
        }
    }
    Ok(parts)
}

impl Disk for Direct {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        self.folder.list()
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        self.close(name)?;
        self.folder.create(name)
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        self.folder.len(name)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.make_room_for(name)?;
        self.executor.run(async {
            let file = self.handle(name).await?;
            let pieces: Vec<(u64, &[u8])> = bytes
                .chunks(PIECE_BYTES)
                .enumerate()
                .map(|(n, piece)| (offset + (n * PIECE_BYTES) as u64, piece))
                .collect();
            for group in pieces.chunks(PIECES_MAX) {
                let under_way = group.iter().map(|(offset, piece)| write_piece(&file, *offset, piece));
                for result in join_all(under_way).await {
                    result?;
                }
            }
            Ok(())
        })
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.make_room_for(name)?;
        into.clear();
        self.executor.run(async {
            let file = self.handle(name).await?;
            while into.len() < len {
                let (at, wanted) = (into.len(), (len - into.len()).min(PIECE_BYTES * PIECES_MAX));
                let under_way = (0..wanted)
                    .step_by(PIECE_BYTES)
                    .map(|from| read_piece(&file, offset + (at + from) as u64, PIECE_BYTES.min(wanted - from)));
                // Pieces behind the end of the file are empty.
                for parts in join_all(under_way).await {
                    parts?.iter().for_each(|it| into.extend_from_slice(it));
                }
                if into.len() - at < wanted {
                    break;
                }
            }
            Ok(())
        })
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        self.make_room_for(name)?;
        self.executor.run(async { self.handle(name).await?.fdatasync().await.map_err(into_io) })
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        self.close(name)?;
        self.folder.truncate(name, len)
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        self.close(from)?;
        self.close(to)?;
        self.folder.rename(from, to)
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        self.close(name)?;
        self.folder.remove(name)
    }
}

/// Polls all until each is done.
async fn join_all<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (future, done) in &mut futures {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => waits = true,
                }
            }
        }
        if waits { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().map(|(_, done)| done.expect("all are done")).collect()
}
