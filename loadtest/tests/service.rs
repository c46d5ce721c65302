//! The proxy under a service manager, which this test plays: what it is told, and when it is not told that all is well.

mod common;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use common::proxy::{Proxy, cores, on_backends};
use common::{order, with_discord};
use loadtest::discord::Address;
use loadtest::http;
use loadtest::run::held::HeldThread;
use serde_json::json;
use tokio::net::UnixDatagram;

const MESSAGE_BYTES_MAX: usize = 4096;

/// The service manager's end.
struct Manager {
    name: String,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("shardgate-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { name, socket: UnixDatagram::from_std(socket).unwrap() }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("NOTIFY_SOCKET", format!("@{}", self.name)), ("WATCHDOG_USEC", "2000000".into())]
    }

    async fn hear(&self) -> String {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let len = self.socket.recv(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    /// Hears until a message begins like this, and answers what came before.
    async fn until(&self, start: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let message = self.hear().await;
            if message.starts_with(start) {
                return before;
            }
            before.push(message);
        }
    }

    /// What has arrived by now.
    fn heard(&self) -> Vec<String> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let next =
            || self.socket.try_recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned());
        std::iter::from_fn(next).collect()
    }
}

#[test]
fn a_service_manager_hears_of_the_start_the_shards_and_the_end() {
    on_backends(|backend| {
        with_discord(&["--shards", "3"], async |discord: Address| {
            let manager = Manager::new();
            let keys = json!({"backend": backend});
            let mut proxy = Proxy::spawn_in(&discord, &[], keys, manager.environment());
            let before = manager.until("READY=1").await;
            assert_eq!(before, ["STATUS=Asks Discord for the gateway."]);
            // Ready means that clients can connect, not that Discord is there.
            assert_eq!(proxy.page("/shard-count").await, (200, "3".into()));
            manager.until("STATUS=3 of 3 shards live").await;
            manager.until("WATCHDOG=1").await;
            manager.until("WATCHDOG=1").await;
            proxy.process.signal(libc::SIGHUP);
            manager.until("RELOADING=1\nMONOTONIC_USEC=").await;
            manager.until("READY=1").await;
            order(&discord, "refuse?count=1000000", "").await;
            order(&discord, "drop?shard=1", "").await;
            manager.until("STATUS=2 of 3 shards live").await;
            proxy.process.terminate();
            manager.until("STOPPING=1").await;
            assert!(proxy.ended().await.success());
        });
    });
}

#[test]
fn a_core_that_is_stuck_is_not_fed_for() {
    on_backends(|backend| {
        with_discord(&["--shards", "2"], async |discord: Address| {
            let manager = Manager::new();
            // The operator's pages do not come by way of a core.
            let keys = json!({"backend": backend, "admin_bind": "127.0.0.1:0"});
            let mut proxy = Proxy::spawn_in(&discord, &[], keys, manager.environment());
            manager.until("WATCHDOG=1").await;
            let stuck = format!("core-{}", cores() - 1);
            let held = match HeldThread::new(proxy.process.pid, &stuck) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return println!("skipping {backend}: no thread can be held here: {error}");
                }
                held => held.unwrap(),
            };
            proxy.logged("the watchdog is not fed").await;
            manager.heard();
            // Asking takes several rounds of the watchdog's: the core has 2 s to answer.
            let livez = format!("{}/livez", proxy.admin().await);
            let (status, body) = http::call("GET", &livez, "", None).await.unwrap();
            assert_eq!((status, body), (503, format!("{} does not answer\n", stuck.replace('-', " "))));
            assert!(!manager.heard().iter().any(|it| it.contains("WATCHDOG")));
            drop(held);
            manager.until("WATCHDOG=1").await;
            assert_eq!(http::call("GET", &livez, "", None).await.unwrap().0, 200);
            proxy.stop().await;
        });
    });
}
