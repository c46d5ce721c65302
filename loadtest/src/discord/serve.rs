//! The listeners, the clock's ticks and standard input: the only part that waits for more than one connection.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::options::Options;
use super::{Discord, Shared, admin, gateway, rest};
use crate::clock::now_ns;
use crate::http;
use crate::link::Link;
use crate::tls;

const TICK: Duration = Duration::from_millis(1);
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// Where the fake Discord is reached; printed as one line of JSON when it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    /// For `api_url`.
    pub rest: String,
    pub gateway: String,
    /// Always plain HTTP; `/fake/...` is here.
    pub admin: String,
    /// For `SSL_CERT_FILE`; `null` without TLS.
    pub cert: Option<String>,
}

/// Starts listening and answers where; serves in tasks of the current `LocalSet`, until that ends.
///
/// Errs when the port or the certificate file cannot be had.
pub async fn serve(mut options: Options) -> io::Result<Address> {
    let listener = TcpListener::bind(&options.listen).await?;
    let port = listener.local_addr()?.port();
    let tls = options.is_tls.then(|| tls::throw_away_server(&options.cert_file)).transpose()?;
    let (host, s) = if options.is_tls { ("localhost", "s") } else { ("127.0.0.1", "") };
    let mut address = Address {
        rest: format!("http{s}://{host}:{port}/api/v10"),
        gateway: format!("ws{s}://{host}:{port}"),
        admin: format!("http://127.0.0.1:{port}"),
        cert: options.is_tls.then(|| options.cert_file.display().to_string()),
    };
    if options.resume_url.is_empty() {
        options.resume_url = address.gateway.clone();
    }
    let is_tls = options.is_tls;
    let discord = Rc::new(RefCell::new(Discord::new(options)));
    if is_tls {
        let plain = TcpListener::bind("127.0.0.1:0").await?;
        address.admin = format!("http://127.0.0.1:{}", plain.local_addr()?.port());
        spawn_local(accept(discord.clone(), plain, None, address.gateway.clone()));
    }
    spawn_local(accept(discord.clone(), listener, tls, address.gateway.clone()));
    spawn_local(tick(discord));
    Ok(address)
}

/// Runs the command: prints the address and serves until standard input closes, if asked to, or for ever.
pub async fn command(options: Options) -> io::Result<()> {
    let (ready_file, exit_with_stdin) = (options.ready_file.clone(), options.exit_with_stdin);
    let line = serde_json::to_string(&serve(options).await?)?;
    println!("{line}");
    if let Some(path) = ready_file {
        // Renamed into place, so that whoever waits for the file never reads half of it.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, line + "\n")?;
        std::fs::rename(draft, path)?;
    }
    if !exit_with_stdin {
        return std::future::pending().await;
    }
    // A thread, since standard input may be anything; it lives as long as the process.
    let (closed, on_closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        closed.send(()).ok();
    });
    on_closed.await.map_err(io::Error::other)
}

async fn accept(discord: Shared, listener: TcpListener, tls: Option<Arc<ServerConfig>>, gateway_url: String) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (discord, tls, url) = (discord.clone(), tls.clone(), gateway_url.clone());
                // A connection that ends early is no news: its peer gave up or was cut on purpose.
                spawn_local(async move { connection(discord, tcp, tls, &url).await.ok() });
            }
            // Out of file descriptors, most likely: give those that are open time to end.
            Err(_) => tokio::time::sleep(HOUSEKEEPING).await,
        }
    }
}

async fn connection(
    discord: Shared,
    tcp: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    gateway_url: &str,
) -> io::Result<()> {
    let tls = tls.map(ServerConnection::new).transpose().map_err(io::Error::other)?;
    let link = Link::new(tcp, tls.map(Into::into))?;
    let mut bytes = Vec::new();
    let request = http::receive(&link, &mut bytes).await?;
    if request.header("upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket")) {
        return gateway::run(discord, link, &request, bytes).await;
    }
    let answer = match request.target().0.strip_prefix("/fake/") {
        Some(what) => admin::answer(&discord, what, &request),
        None => rest::answer(&mut discord.borrow_mut(), &request, gateway_url),
    };
    link.send(&answer);
    while link.pending_len() > 0 && link.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn tick(discord: Shared) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut housekeeping_ns = now_ns();
    loop {
        tick.tick().await;
        let now_ns = now_ns();
        discord.borrow_mut().on_tick(now_ns);
        if now_ns - housekeeping_ns >= HOUSEKEEPING.as_nanos() as u64 {
            housekeeping_ns = now_ns;
            discord.borrow_mut().on_housekeeping(now_ns);
        }
    }
}
