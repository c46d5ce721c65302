//! Proxies of the tests' own: HTTP's CONNECT and SOCKS5, with and without user and password. They note whom they were asked for, and
//! connect to loopback whatever the name was, so that a name that no resolver knows proves who resolved it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connect,
    Socks5,
}

#[derive(Default)]
pub struct Relay {
    pub port: u16,
    /// `name:port` of each tunnel, in the order they were asked for.
    pub asked: RefCell<Vec<String>>,
    /// What the next tunnels are answered instead: bytes, then the end.
    pub refusals: RefCell<Vec<Vec<u8>>>,
    /// Everything that was said before a tunnel was open.
    pub said: RefCell<Vec<u8>>,
}

/// `user:password` that is wanted, in plain text; `None`: nobody is asked.
pub async fn start(kind: Kind, credentials: Option<&'static str>) -> Rc<Relay> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Rc::new(Relay { port: listener.local_addr().unwrap().port(), ..Relay::default() });
    let shared = relay.clone();
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let relay = shared.clone();
            // A tunnel that ends early is the test's business.
            spawn_local(async move { relay.serve(kind, credentials, socket).await.ok() });
        }
    });
    relay
}

impl Relay {
    async fn serve(&self, kind: Kind, credentials: Option<&str>, mut socket: TcpStream) -> io::Result<()> {
        let refusal = self.refusals.borrow_mut().pop();
        if let Some(refusal) = refusal {
            // Something is said first, whatever the protocol is.
            socket.read_u8().await?;
            socket.write_all(&refusal).await?;
            return socket.shutdown().await;
        }
        let target = match kind {
            Kind::Connect => self.connect(credentials, &mut socket).await?,
            Kind::Socks5 => self.socks(credentials, &mut socket).await?,
        };
        let Some((_, port)) = target.rsplit_once(':') else { return Ok(()) };
        let mut beyond = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
        socket.set_nodelay(true)?;
        beyond.set_nodelay(true)?;
        let opened: &[u8] = match kind {
            Kind::Connect => b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n",
            Kind::Socks5 => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        };
        // In two pieces, as a network may.
        socket.write_all(&opened[..3]).await?;
        tokio::task::yield_now().await;
        socket.write_all(&opened[3..]).await?;
        copy_bidirectional(&mut socket, &mut beyond).await.map(drop)
    }

    /// The target, or an empty string when the asker was turned away.
    async fn connect(&self, credentials: Option<&str>, socket: &mut TcpStream) -> io::Result<String> {
        use base64::Engine;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        self.said.borrow_mut().extend_from_slice(&head);
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let wanted = credentials.map(|it| base64::engine::general_purpose::STANDARD.encode(it));
        let line = wanted.map(|it| format!("Proxy-Authorization: Basic {it}"));
        if line.is_some_and(|line| !head.lines().any(|it| it == line)) {
            socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(String::new());
        }
        let target = head.strip_prefix("CONNECT ").and_then(|it| it.split(' ').next()).unwrap_or_default();
        self.asked.borrow_mut().push(target.to_owned());
        Ok(target.to_owned())
    }

    async fn socks(&self, credentials: Option<&str>, socket: &mut TcpStream) -> io::Result<String> {
        let (version, count) = (socket.read_u8().await?, socket.read_u8().await?);
        let methods = read(socket, count.into()).await?;
        let method = if credentials.is_some() { 2 } else { 0 };
        if version != 5 || !methods.contains(&method) {
            socket.write_all(&[5, 0xff]).await?;
            return Ok(String::new());
        }
        socket.write_all(&[5, method]).await?;
        if let Some(credentials) = credentials {
            let _version = socket.read_u8().await?;
            let user_len = socket.read_u8().await?;
            let user = read(socket, user_len.into()).await?;
            let password_len = socket.read_u8().await?;
            let password = read(socket, password_len.into()).await?;
            let shown = [user, b":".to_vec(), password].concat();
            let is_right = shown == credentials.as_bytes();
            socket.write_all(&[1, u8::from(!is_right)]).await?;
            if !is_right {
                return Ok(String::new());
            }
        }
        let head = read(socket, 4).await?;
        let host = match head[3] {
            1 => {
                let it = read(socket, 4).await?;
                format!("{}.{}.{}.{}", it[0], it[1], it[2], it[3])
            }
            _ => {
                let len = socket.read_u8().await?;
                String::from_utf8(read(socket, len.into()).await?).map_err(io::Error::other)?
            }
        };
        let target = format!("{host}:{}", socket.read_u16().await?);
        self.asked.borrow_mut().push(target.clone());
        Ok(target)
    }
}

async fn read(socket: &mut TcpStream, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).await?;
    Ok(bytes)
}
