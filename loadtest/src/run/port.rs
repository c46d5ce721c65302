//! A port of loopback that nobody else can get, to be given to a proxy.
//!
//! It stays bound, without listening, while the proxy binds it as well: so two runs on one machine never meet.

use std::io;

use tokio::net::TcpSocket;

/// Keep it for as long as the proxy runs.
pub struct Port {
    pub number: u16,
    _bound: TcpSocket,
}

impl Port {
    /// The proxy must bind it with SO_REUSEPORT, as one that has a listener per core does.
    ///
    /// Errs when the kernel has no port left.
    pub fn reserve() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseport(true)?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self { number: socket.local_addr()?.port(), _bound: socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reserved_port_can_be_bound_on_purpose_and_not_by_chance() {
        let port = Port::reserve().unwrap();
        assert!(std::net::TcpListener::bind(("127.0.0.1", port.number)).is_err());
        let on_purpose = TcpSocket::new_v4().unwrap();
        on_purpose.set_reuseport(true).unwrap();
        on_purpose.bind(([127, 0, 0, 1], port.number).into()).unwrap();
        assert!(on_purpose.listen(1).is_ok());
    }
}
