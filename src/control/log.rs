//! The log for people: one line per event on standard output, written by a thread of its own.
//!
//! A core must never wait for whoever reads the log, so lines go through a bounded queue; when it is full they are dropped and
//! counted. Only this program's own lines are shown: what libraries log may hold request headers. Not here: the log of
//! dispatches, which drops nothing.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// Lines waiting to be written. When full, further ones are dropped, and a line says how many.
const LINES_MAX: usize = 8192;
/// How long the end of the process waits for the last lines to be taken.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Keeps the log going; when it is dropped, the lines so far have been written.
pub struct Log {
    lines: Lines,
    written: Receiver<()>,
}

/// Begins to write events of `level` and above to standard output. The first call counts; a later one in the same process writes
/// nothing.
pub fn start(level: LevelFilter) -> io::Result<Log> {
    let stdout = io::stdout();
    let colours = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (lines, log) = start_writer(stdout)?;
    let format = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(colours);
    let shown = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let subscriber = tracing_subscriber::registry().with(format).with(shown);
    // Without the bridge from the `log` crate, so that libraries stay silent whatever the level.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(log)
}

fn start_writer(output: impl Write + Send + 'static) -> io::Result<(Lines, Log)> {
    let (queue, waiting) = mpsc::sync_channel(LINES_MAX);
    let (done, written) = mpsc::channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue, dropped: Arc::clone(&dropped) };
    let write = move || {
        write_lines(output, &waiting, &dropped);
        // Nobody waits any more when the process is past its patience.
        let _ = done.send(());
    };
    thread::Builder::new().name("log".into()).spawn(write)?;
    Ok((lines.clone(), Log { lines, written }))
}

fn write_lines(mut output: impl Write, waiting: &Receiver<Option<Vec<u8>>>, dropped: &AtomicU64) {
    while let Ok(Some(line)) = waiting.recv() {
        // An output that is closed takes no complaint either.
        let _ = output.write_all(&line);
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => drop(writeln!(output, "{count} log lines dropped: the reader of the log is too slow")),
        }
    }
    let _ = output.flush();
}

impl Drop for Log {
    fn drop(&mut self) {
        // With a full queue nobody reads; the lines are lost then, and the process still ends.
        if self.lines.queue.try_send(None).is_ok() {
            let _ = self.written.recv_timeout(FLUSH_MAX);
        }
    }
}

/// The way of a line to the writing thread; `None` ends it.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Option<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

impl Write for Lines {
    /// The formatter hands over each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Some(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// An output that others can look into, and that waits for its gate before it takes the first line.
    #[derive(Clone)]
    struct Output {
        text: Arc<Mutex<Vec<u8>>>,
        gate: Arc<Mutex<Receiver<()>>>,
    }

    impl Output {
        fn new() -> (Self, mpsc::Sender<()>) {
            let (open, gate) = mpsc::channel();
            (Self { text: Arc::default(), gate: Arc::new(Mutex::new(gate)) }, open)
        }

        fn text(&self) -> String {
            String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.lock().unwrap().recv();
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_before_the_log_is_gone() {
        let (output, open) = Output::new();
        drop(open);
        let (mut lines, log) = start_writer(output.clone()).unwrap();
        for line in 0..100 {
            lines.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        drop(log);
        assert_eq!(output.text(), (0..100).map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many() {
        let (output, open) = Output::new();
        let (mut lines, log) = start_writer(output.clone()).unwrap();
        let sent = LINES_MAX + 50;
        for _ in 0..sent {
            lines.write_all(b"line\n").unwrap();
        }
        drop(open);
        // The end waits for room here, which the drop of the log would not.
        log.lines.queue.send(None).unwrap();
        log.written.recv().unwrap();
        let text = output.text();
        let written = text.lines().filter(|line| *line == "line").count();
        let told: usize = text
            .lines()
            .find_map(|line| line.strip_suffix(" log lines dropped: the reader of the log is too slow"))
            .unwrap()
            .parse()
            .unwrap();
        // One may have been in the thread's hands while the queue was full.
        assert!(told == 49 || told == 50, "{told}");
        assert_eq!(written + told, sent);
    }

    #[test]
    fn events_become_one_line_with_their_fields_and_libraries_stay_silent() {
        let (output, open) = Output::new();
        drop(open);
        let (lines, log) = start_writer(output.clone()).unwrap();
        let format = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false);
        let shown = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(format).with(shown), || {
            tracing::info!(shard = 3, "identified");
            tracing::debug!("too fine");
            tracing::error!(target: "ureq", "authorization: secret");
        });
        drop(log);
        let text = output.text();
        assert!(text.ends_with("identified shard=3\n") && text.lines().count() == 1, "{text}");
    }
}
