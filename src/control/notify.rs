//! What the service manager is told: sd_notify(3), a datagram of lines to the socket that NOTIFY_SOCKET names.
//!
//! It sends and hopes: a manager that does not listen changes nothing for clients. When to say what is `service`'s. Not here: what the
//! manager passes to us (`runtime/activation`).

#![forbid(unsafe_code)]

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the service manager put into the environment.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    /// NOTIFY_SOCKET.
    pub socket: Option<String>,
    /// WATCHDOG_USEC, when WATCHDOG_PID is ours or not there.
    pub watchdog: Option<Duration>,
}

impl Manager {
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Self { socket: variable("NOTIFY_SOCKET"), watchdog }
    }
}

fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|it| it.parse() == Ok(own));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0 && is_ours)?;
    Some(Duration::from_micros(usec))
}

/// The way to the service manager; without one, nothing is said.
#[derive(Debug, Default)]
pub struct Notifier {
    way: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// `name` as in NOTIFY_SOCKET: a path, or an abstract name behind `@`. The error is for the operator.
    pub fn new(name: Option<&str>) -> io::Result<Self> {
        let Some(name) = name else { return Ok(Self::default()) };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that is busy must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self { way: Some((socket, address)) })
    }

    /// Whether anybody is told.
    pub fn is_there(&self) -> bool {
        self.way.is_some()
    }

    /// Says these assignments, a line each. False when they are lost, as when the manager's queue is full: what matters is said again.
    pub fn say(&self, lines: &str) -> bool {
        let Some((socket, address)) = &self.way else { return true };
        let sent = socket.send_to_addr(lines.as_bytes(), address);
        if let Err(error) = &sent {
            tracing::debug!(%error, "the service manager does not hear");
        }
        sent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_heard() {
        let path = std::env::temp_dir().join(format!("shardgate-notify-{}", std::process::id()));
        let by_path = UnixDatagram::bind(&path).unwrap();
        Notifier::new(path.to_str()).unwrap().say("READY=1\nSTATUS=here");
        assert_eq!(heard(&by_path), "READY=1\nSTATUS=here");
        std::fs::remove_file(&path).unwrap();

        let name = format!("shardgate-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(Some(&format!("@{name}"))).unwrap().say("STOPPING=1");
        assert_eq!(heard(&by_name), "STOPPING=1");
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_a_deaf_one_harms_nobody() {
        assert!(!Notifier::new(None).unwrap().is_there());
        Notifier::new(Some("/nowhere/to/be/found")).unwrap().say("READY=1");
        assert!(Notifier::new(Some("vsock:2:1234")).is_err());
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let watchdog = |usec: &str, pid: Option<&str>| watchdog(Some(usec.into()), pid.map(str::to_owned), 7);
        assert_eq!(watchdog("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(watchdog("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(watchdog("30000000", Some("8")), None);
        assert_eq!((watchdog("0", None), watchdog("soon", None)), (None, None));
    }
}
