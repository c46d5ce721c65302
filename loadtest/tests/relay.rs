//! The floor passes bytes unchanged, both ways, at the reader's pace and in bounded memory: else it would be no yardstick.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use loadtest::relay::Kind;
use loadtest::run::proc::Usage;

/// How long a read may hang before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Relay {
    process: Child,
    address: String,
    behind: TcpListener,
}

impl Relay {
    /// `None` where the machine forbids io_uring; the reason is printed.
    fn start(kind: Kind, pairs: usize, cores: usize) -> Option<Self> {
        if kind != Kind::Epoll
            && let Err(error) = io_uring::IoUring::<io_uring::squeue::Entry>::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .build(8)
        {
            println!("skipping {}: {error}", kind.name());
            return None;
        }
        let behind = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["relay", "--kind", kind.name(), "--to", &behind.local_addr().unwrap().to_string()])
            .args(["--pairs", &pairs.to_string(), "--cores", &cores.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { process, address: address.trim().to_owned(), behind })
    }

    /// A client's socket and the one that it is relayed to.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(&self.address).unwrap();
        let (upstream, _) = self.behind.accept().unwrap();
        for socket in [&client, &upstream] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (client, upstream)
    }

    fn ends(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn on_every_kind(pairs: usize, cores: usize, test: impl Fn(Relay) + Sync) {
    thread::scope(|scope| {
        for kind in Kind::ALL {
            let test = &test;
            scope.spawn(move || Relay::start(kind, pairs, cores).map(test));
        }
    });
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Writes `bytes` from a thread of its own, and ends the stream behind them.
fn write_all(mut to: &TcpStream, bytes: &[u8], chunk: usize) {
    bytes.chunks(chunk).for_each(|it| to.write_all(it).unwrap());
    to.shutdown(Shutdown::Write).unwrap();
}

fn read_all(mut from: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn bytes_pass_unchanged_both_ways_at_once_on_every_pair() {
    on_every_kind(5, 2, |relay| {
        let pairs: Vec<_> = (0..5).map(|_| relay.connect()).collect();
        thread::scope(|scope| {
            for (number, (client, upstream)) in pairs.iter().enumerate() {
                let (down, up) = (noise(number as u64, 3 << 20), noise(100 + number as u64, 1 << 20));
                let (sent_down, sent_up) = (down.clone(), up.clone());
                scope.spawn(move || write_all(upstream, &sent_down, 700));
                scope.spawn(move || write_all(client, &sent_up, 50_000));
                scope.spawn(move || assert!(read_all(client) == down));
                scope.spawn(move || assert!(read_all(upstream) == up));
            }
        });
        drop(pairs);
        relay.ends();
    });
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    on_every_kind(1, 1, |relay| {
        let (mut client, mut upstream) = relay.connect();
        client.write_all(b"a question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&upstream), b"a question");
        for _ in 0..3 {
            upstream.write_all(b"an answer").unwrap();
            let mut answer = [0; 9];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"an answer");
        }
        drop(upstream);
        assert_eq!(read_all(&client), b"");
        relay.ends();
    });
}

#[test]
fn a_slow_reader_slows_its_sender_and_gets_everything() {
    const BYTES: usize = 64 << 20;
    on_every_kind(2, 1, |relay| {
        let (client, upstream) = relay.connect();
        let (mut other, mut other_upstream) = relay.connect();
        let block = noise(7, 1 << 20);
        thread::scope(|scope| {
            let sent = &block;
            let writer = scope.spawn(move || {
                (0..BYTES / sent.len()).for_each(|_| (&upstream).write_all(sent).unwrap());
                upstream.shutdown(Shutdown::Write).unwrap();
                upstream
            });
            // Sockets take a few MiB, and the rest must wait with the sender.
            thread::sleep(Duration::from_millis(500));
            assert!(!writer.is_finished());
            assert!(Usage::of(relay.process.id()).rss_peak_bytes < 40 << 20);
            // The other pair does not wait.
            other_upstream.write_all(b"quick").unwrap();
            let mut quick = [0; 5];
            other.read_exact(&mut quick).unwrap();
            assert_eq!(&quick, b"quick");
            let mut came = vec![0; block.len()];
            for _ in 0..BYTES / block.len() {
                (&client).read_exact(&mut came).unwrap();
                assert!(came == block);
            }
            assert_eq!(read_all(&client), b"");
            drop(writer.join().unwrap());
        });
        drop((client, other, other_upstream));
        relay.ends();
    });
}

#[test]
fn a_connection_that_breaks_ends_its_pair_alone() {
    on_every_kind(2, 1, |relay| {
        let (broken, broken_upstream) = relay.connect();
        let (mut client, mut upstream) = relay.connect();
        // Unread bytes make the kernel answer the close with a reset.
        (&broken_upstream).write_all(&[1; 1000]).unwrap();
        (&broken).read_exact(&mut [0; 1]).unwrap();
        drop(broken);
        let mut rest = Vec::new();
        // Its end is the end of the other, by a word or a reset.
        (&broken_upstream).read_to_end(&mut rest).ok();
        assert_eq!(rest, b"");
        drop(broken_upstream);
        upstream.write_all(b"still here").unwrap();
        let mut came = [0; 10];
        client.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"still here");
        drop((client, upstream));
        relay.ends();
    });
}
