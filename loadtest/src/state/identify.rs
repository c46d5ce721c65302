//! `loadtest identify`: how long it takes, and what it costs, to give every client its whole state at once.
//!
//! The clients read and look at nothing but the first bytes of each frame, so that the proxy is measured and not they.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::options::Options;
use super::pages;
use super::skim::Skimmer;
use super::stage::{binary, caught_up, machine, mib, start_proxy};
use crate::clock::now_ns;
use crate::run::fake::Fake;
use crate::run::in_temp_dir;
use crate::run::proc::Usage;
use crate::url::Url;
use crate::ws;

/// Targets for the default size on two cores.
const SECONDS: f64 = 0.9;
const CPU_S: f64 = 1.2;
const READ_BYTES: usize = 256 * 1024;
/// A client that gets nothing for this long has failed.
const SILENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// One time that all clients identified at once.
struct Round {
    seconds: f64,
    bytes: u64,
    cpu_s: f64,
}

/// Measures, prints a table, and answers whether the targets were met, which only `--judge` asks for.
pub async fn run(options: Options) -> io::Result<bool> {
    in_temp_dir(async |dir| measured(&options, dir).await).await
}

async fn measured(options: &Options, dir: &Path) -> io::Result<bool> {
    let binary = binary(options).await?;
    let fake = Fake::start_with(options.discord_words(), dir).await?;
    let mut proxy = start_proxy(options, &binary, &fake, dir, true).await?;
    caught_up(&fake, &mut proxy, 0).await?;
    println!("{} shards × {} guilds × {} members", options.shards, options.guilds, options.members);
    println!("{}\n", machine());
    println!("| round | seconds until the last has all | MB | CPU s of the proxy |\n|---|---|---|---|");
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let round = identify_all(options, &proxy.url, proxy.process.pid).await?;
        println!("| {number} | {:.2} | {:.0} | {:.2} |", round.seconds, round.bytes as f64 / 1e6, round.cpu_s);
        rounds.push(round);
        // The clients close with 1000: their sessions end, and the next round begins from nothing.
        while pages::metrics(&proxy.url).await?.sum("shardgate_sessions") > 0.0 {
            sleep(POLL).await;
        }
    }
    println!(
        "\nRSS of the proxy {:.1} MiB, at most {:.1} MiB",
        mib(Usage::of(proxy.process.pid).rss_bytes),
        mib(Usage::of(proxy.process.pid).rss_peak_bytes)
    );
    proxy.process.stop().await;
    fake.process.stop().await;
    let median = |value: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (seconds, cpu_s) = (median(|it| it.seconds), median(|it| it.cpu_s));
    let are_met = seconds <= SECONDS && cpu_s <= CPU_S;
    let verdict = if are_met { "ok" } else { "MISSED" };
    println!("median {seconds:.2} s, at most {SECONDS}; {cpu_s:.2} CPU s, at most {CPU_S}: {verdict}");
    Ok(are_met || !options.is_judged)
}

async fn identify_all(options: &Options, url: &str, pid: u32) -> io::Result<Round> {
    // All of them, and who measures.
    let barrier = Rc::new(Barrier::new(options.shards as usize + 1));
    let last_ns = Rc::new(Cell::new(0));
    let clients: Vec<_> = (0..options.shards)
        .map(|shard| {
            let (barrier, last_ns, url) = (barrier.clone(), last_ns.clone(), url.to_owned());
            let (shards, guilds) = (options.shards, options.guilds);
            spawn_local(async move {
                let bytes = client(&url, [shard, shards], guilds, &barrier).await;
                last_ns.set(now_ns().max(last_ns.get()));
                bytes
            })
        })
        .collect();
    // A client that cannot connect never comes to the barrier.
    timeout(SILENCE, barrier.wait()).await.map_err(|_| io::Error::other("not every client could connect"))?;
    let (began_ns, before) = (now_ns(), Usage::of(pid));
    let mut bytes = 0;
    for client in clients {
        bytes += client.await.map_err(io::Error::other)??;
    }
    let cpu_s = Usage::of(pid).cpu_s - before.cpu_s;
    Ok(Round { seconds: (last_ns.get() - began_ns) as f64 / 1e9, bytes, cpu_s })
}

/// Identifies once everybody is connected; answers how many bytes came until READY and all guilds had.
async fn client(url: &str, [shard, shards]: [u32; 2], guilds: u32, barrier: &Barrier) -> io::Result<u64> {
    let url = Url::parse(url).ok_or_else(|| io::Error::other("no URL of a proxy"))?;
    let mut socket = TcpStream::connect(url.authority()).await?;
    socket.set_nodelay(true)?;
    let upgrade = format!(
        "GET /?v=10&encoding=json HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
        url.authority(),
        ws::key([7; 16])
    );
    socket.write_all(upgrade.as_bytes()).await?;
    let mut buffer = vec![0; READ_BYTES];
    let mut head = Vec::new();
    let rest = loop {
        let len = read(&mut socket, &mut buffer).await?;
        head.extend_from_slice(&buffer[..len]);
        if let Some(at) = head.windows(4).position(|it| it == b"\r\n\r\n") {
            break head.split_off(at + 4);
        }
    };
    let mut skimmer = Skimmer::default();
    // HELLO, or its beginning.
    skimmer.feed(&rest, |_| {});
    barrier.wait().await;
    let identify = format!(
        "{{\"op\":2,\"d\":{{\"token\":\"fake\",\"properties\":{{}},\"shard\":[{shard},{shards}],\"intents\":{}}}}}",
        crate::client::options::INTENTS
    );
    let mut frame = Vec::new();
    ws::push_frame(&mut frame, ws::TEXT, identify.as_bytes(), MASK);
    socket.write_all(&frame).await?;
    let (mut bytes, mut received, mut is_closed) = (0, 0, false);
    loop {
        let len = read(&mut socket, &mut buffer).await?;
        bytes += len as u64;
        skimmer.feed(&buffer[..len], |payload| match payload {
            Some(it) => {
                received += u32::from(it.starts_with(b"{\"t\":\"GUILD_") || it.starts_with(b"{\"t\":\"READY\""))
            }
            None => is_closed = true,
        });
        if is_closed {
            return Err(io::Error::other(format!("shard {shard} was closed after {received} of {guilds} guilds")));
        }
        if received > guilds {
            break;
        }
    }
    frame.clear();
    ws::push_close(&mut frame, 1000, "", MASK);
    socket.write_all(&frame).await?;
    Ok(bytes)
}

/// Errs when the connection ends or stays silent.
async fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match timeout(SILENCE, socket.read(buffer)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
