//! The log for people: one line per event on standard output, written by a thread of its own.
//!
//! A core must never wait for whoever reads the log, so lines go through a bounded queue; when it is full they are dropped and
//! counted. Lines that repeat are counted too (`flood`). Only this program's own lines are shown: what libraries log may hold request headers. Not
//! here: the log of dispatches, which drops nothing.

#![forbid(unsafe_code)]

mod flood;
mod json;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use self::flood::{Flood, LeftOut, grouped};
use self::json::Json;
use super::config::LogFormat;
use crate::runtime::clock;

/// Lines waiting to be written. When full, further ones are dropped, and a line says how many.
const LINES_MAX: usize = 8192;
/// How long the end of the process waits for the last lines to be taken.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Keeps the log going; when it is dropped, the lines so far have been written.
pub struct Log {
    lines: Lines,
    written: Receiver<()>,
    level: Level,
}

impl Log {
    /// For a reload.
    pub fn level(&self) -> Level {
        self.level.clone()
    }
}

/// Which levels are shown from now on.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    pub fn set(&self, level: LevelFilter) {
        // Fails only when the log has ended.
        let _ = self.0.reload(shown(level));
    }
}

/// This program's own lines of `level` and above.
fn shown(level: LevelFilter) -> Targets {
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), level)
}

/// Begins to write events of `level` and above to standard output. The first call counts; a later one in the same process writes
/// nothing.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<Log> {
    let stdout = io::stdout();
    let colours = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (dispatch, log) = start_writer(stdout, level, format, colours)?;
    // Without the bridge from the `log` crate, so that libraries stay silent whatever the level.
    let _ = tracing::dispatcher::set_global_default(dispatch);
    Ok(log)
}

/// The way of events to `output`, and the thread that writes there.
fn start_writer(
    output: impl Write + Send + 'static,
    level: LevelFilter,
    format: LogFormat,
    colours: bool,
) -> io::Result<(Dispatch, Log)> {
    let (queue, waiting) = mpsc::sync_channel(LINES_MAX);
    let (done, written) = mpsc::channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue, dropped: Arc::clone(&dropped) };
    let flood = Flood::default();
    let mut writer = LineWriter { output, dropped, flood: flood.clone(), format };
    let write = move || {
        writer.write_all(&waiting);
        // Nobody waits any more when the process is past its patience.
        let _ = done.send(());
    };
    thread::Builder::new().name("log".into()).spawn(write)?;
    let (filter, handle) = reload::Layer::new(shown(level));
    let dispatch = Dispatch::new(subscriber(filter, lines.clone(), flood, format, colours));
    Ok((dispatch, Log { lines, written, level: Level(handle) }))
}

fn subscriber(
    filter: reload::Layer<Targets, Registry>,
    lines: Lines,
    flood: Flood,
    format: LogFormat,
    colours: bool,
) -> Box<dyn Subscriber + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Human => Box::new(registry.with(layer.with_ansi(colours).with_filter(flood))),
        LogFormat::Json => Box::new(registry.with(layer.with_ansi(false).event_format(Json).with_filter(flood))),
    }
}

/// The thread's side. An output that is closed takes no complaint either, so errors are let pass.
struct LineWriter<W> {
    output: W,
    dropped: Arc<AtomicU64>,
    flood: Flood,
    format: LogFormat,
}

impl<W: Write> LineWriter<W> {
    fn write_all(&mut self, waiting: &Receiver<Option<Vec<u8>>>) {
        loop {
            // While nothing is said nobody is woken.
            let next = match self.flood.due().map(|due| due.saturating_duration_since(clock::now())) {
                None => waiting.recv().map_err(RecvTimeoutError::from),
                Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
                Some(patience) => waiting.recv_timeout(patience),
            };
            match next {
                Ok(Some(line)) => {
                    let _ = self.output.write_all(&line);
                    self.tell_dropped();
                }
                Err(RecvTimeoutError::Timeout) => self.tell_left_out(false),
                Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.tell_left_out(true);
        let _ = self.output.flush();
    }

    fn tell_dropped(&mut self) {
        let count = self.dropped.swap(0, Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let message = format!("{count} log lines dropped: the reader of the log is too slow");
        match self.format {
            LogFormat::Human => drop(writeln!(self.output, "{message}")),
            LogFormat::Json => self.write_json("WARN", &message, "", env!("CARGO_CRATE_NAME")),
        }
    }

    fn tell_left_out(&mut self, all: bool) {
        for LeftOut { count, example, level, target } in self.flood.take(clock::now(), all) {
            let message = format!("and {} more like this: {example}", grouped(count));
            match self.format {
                LogFormat::Human => {
                    let mut time = String::new();
                    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
                    let _ = writeln!(self.output, "{time} {level:>5} {target}: {message}");
                }
                LogFormat::Json => self.write_json(level, &message, &format!(",\"left_out\":{count}"), target),
            }
        }
    }

    fn write_json(&mut self, level: &str, message: &str, others: &str, target: &str) {
        if let Ok(line) = json::line(level, message, others, target) {
            let _ = writeln!(self.output, "{line}");
        }
    }
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

    fn start_plain(output: Output, format: LogFormat) -> (Dispatch, Log) {
        start_writer(output, LevelFilter::INFO, format, false).unwrap()
    }

    /// What the log wrote while `say` spoke.
    fn written(format: LogFormat, say: impl FnOnce(&Log)) -> String {
        let (output, open) = Output::new();
        drop(open);
        let (dispatch, log) = start_plain(output.clone(), format);
        tracing::dispatcher::with_default(&dispatch, || say(&log));
        drop(log);
        output.text()
    }

    #[test]
    fn lines_are_written_in_order_before_the_log_is_gone() {
        let (output, open) = Output::new();
        drop(open);
        let (_, log) = start_plain(output.clone(), LogFormat::Human);
        let mut lines = log.lines.clone();
        for line in 0..100 {
            lines.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        drop(log);
        assert_eq!(output.text(), (0..100).map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many() {
        let (output, open) = Output::new();
        let (_, log) = start_plain(output.clone(), LogFormat::Human);
        let mut lines = log.lines.clone();
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
        let text = written(LogFormat::Human, |_| {
            tracing::info!(shard = 3, "identified");
            tracing::debug!("too fine");
            tracing::error!(target: "ureq", "authorization: secret");
        });
        assert!(text.ends_with("identified shard=3\n") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn as_json_each_event_is_one_object_a_line() {
        let text = written(LogFormat::Json, |_| {
            let cause = std::io::Error::other("line\nbreak");
            let client: Option<std::net::SocketAddr> = Some(([127, 0, 0, 1], 7).into());
            let client = client.map(tracing::field::display);
            tracing::warn!(shard = 3, session = "00ab…", client, %cause, ended = true, late = 0.5, "client \"left\"");
            tracing::info!(none = None::<&str>, "two");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let first = &lines[0];
        assert!(text.starts_with(r#"{"time":"20"#), "{text}");
        assert_eq!((&first["level"], &first["message"]), (&"warn".into(), &"client \"left\"".into()));
        assert_eq!((&first["shard"], &first["session"]), (&3.into(), &"00ab…".into()));
        assert_eq!((&first["client"], &first["cause"]), (&"127.0.0.1:7".into(), &"line\nbreak".into()));
        assert_eq!((&first["ended"], &first["late"]), (&true.into(), &0.5.into()));
        assert_eq!((lines.len(), &lines[1]["message"]), (2, &"two".into()));
    }

    #[test]
    fn the_level_can_be_changed_while_the_log_is_written() {
        let text = written(LogFormat::Human, |log| {
            let say = || tracing::debug!("fine");
            say();
            log.level().set(LevelFilter::DEBUG);
            say();
            log.level().set(LevelFilter::OFF);
            say();
        });
        assert_eq!(text.matches("fine").count(), 1, "{text}");
    }

    #[test]
    fn a_line_that_repeats_is_counted_and_others_are_shown() {
        let more = 1204;
        let say = |_: &Log| {
            for client in 0..flood::LINES_MAX + more {
                tracing::warn!(client, "closed");
            }
            tracing::info!("another");
        };
        let text = written(LogFormat::Human, say);
        assert_eq!(text.matches("closed client=").count() as u64, flood::LINES_MAX);
        assert_eq!(text.matches(" WARN shardgate::control::log::tests: and 1,204 more like this: closed\n").count(), 1);
        assert!(text.contains("another\n"));
        let text = written(LogFormat::Json, say);
        assert!(text.contains(r#""message":"and 1,204 more like this: closed","left_out":1204,"at":"#), "{text}");
    }

    #[test]
    fn numbers_have_a_comma_between_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
