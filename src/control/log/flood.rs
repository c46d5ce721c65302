//! Lines that repeat: of one place in the code so many are shown in an interval, and the rest are one line with their number.
//!
//! A place is a call site, whatever its fields say: a thousand clients that are closed for one cause are one story. The lock is taken for lines that
//! are shown at all, never for an event of Discord's.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::runtime::clock;

/// Lines of one call site in `INTERVAL`: a start of 225 shards is shown whole.
pub const LINES_MAX: u64 = 256;
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The call sites that have said something in their interval; there are as many as the program has.
#[derive(Clone, Default)]
pub struct Flood {
    sites: Arc<Mutex<HashMap<Identifier, Site>>>,
}

struct Site {
    began: Instant,
    lines: u64,
    /// The first line that was left out.
    example: String,
    level: &'static str,
    target: &'static str,
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub count: u64,
    /// The message of the first.
    pub example: String,
    pub level: &'static str,
    pub target: &'static str,
}

impl Flood {
    /// Whether one more line of this call site is shown.
    fn admits(&self, now: Instant, event: &Event<'_>) -> bool {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = event.metadata();
        let site = sites.entry(metadata.callsite()).or_insert_with(|| Site {
            began: now,
            lines: 0,
            example: String::new(),
            level: metadata.level().as_str(),
            target: metadata.target(),
        });
        site.lines += 1;
        if site.lines == LINES_MAX + 1 {
            let mut message = Message::default();
            event.record(&mut message);
            site.example = message.0;
        }
        site.lines <= LINES_MAX
    }

    /// When the next interval is over; `None` when no call site has begun one. A site begins with a line that is shown.
    pub fn due(&self) -> Option<Instant> {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.values().map(|site| site.began + INTERVAL).min()
    }

    /// What was left out in intervals that are over, or, in the end, in all of them. They begin anew.
    pub fn take(&self, now: Instant, all: bool) -> Vec<LeftOut> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let over = sites.extract_if(|_, site| all || now.saturating_duration_since(site.began) >= INTERVAL);
        let mut left_out: Vec<_> = over
            .map(|(_, site)| site)
            .filter(|site| site.lines > LINES_MAX)
            .map(|site| LeftOut {
                count: site.lines - LINES_MAX,
                example: site.example,
                level: site.level,
                target: site.target,
            })
            .collect();
        left_out.sort_by(|a, b| a.example.cmp(&b.example));
        left_out
    }
}

impl<S: Subscriber> Filter<S> for Flood {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(clock::now(), event)
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// A number with a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::super::{LineWriter, LogFormat};
    use super::*;

    #[test]
    fn what_was_left_out_is_told_once_its_interval_is_over_and_then_nothing_is_waited_for() {
        let flood = Flood::default();
        assert_eq!(flood.due(), None);
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(flood.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            (0..LINES_MAX + 3).for_each(|_| tracing::info!("again"));
        });
        let began = flood.due().unwrap() - INTERVAL;
        flood.sites.lock().unwrap().values_mut().for_each(|site| site.began = began - INTERVAL);
        let (queue, waiting) = mpsc::channel();
        queue.send(Some(b"the next line\n".to_vec())).unwrap();
        drop(queue);
        let mut text = Vec::new();
        let dropped = Arc::new(AtomicU64::new(0));
        LineWriter { output: &mut text, dropped, flood: flood.clone(), format: LogFormat::Human }.write_all(&waiting);
        assert!(String::from_utf8(text).unwrap().ends_with("and 3 more like this: again\nthe next line\n"));
        assert_eq!(flood.due(), None);
    }
}
