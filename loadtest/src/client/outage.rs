//! How long a client goes without events when its connection is lost: from the last event before to the first after.
//!
//! What the client does by order, being away or not reading, is no outage.

use std::cell::{Cell, RefCell};

#[derive(Debug, Default)]
pub struct Outage {
    /// When the last event came; 0 before the first.
    last_ns: Cell<u64>,
    since_ns: Cell<Option<u64>>,
    ended: RefCell<Vec<u64>>,
}

impl Outage {
    /// An event was read at `now_ns`.
    pub fn on_event(&self, now_ns: u64) {
        if let Some(since_ns) = self.since_ns.take() {
            self.ended.borrow_mut().push(now_ns.saturating_sub(since_ns));
        }
        self.last_ns.set(now_ns);
    }

    /// The connection broke, was closed, or could not be made.
    pub fn on_lost(&self) {
        if self.since_ns.get().is_none() && self.last_ns.get() > 0 {
            self.since_ns.set(Some(self.last_ns.get()));
        }
    }

    /// The client left by order.
    pub fn on_left(&self) {
        self.since_ns.set(None);
        self.last_ns.set(0);
    }

    /// The client reads again, after a pause that it was ordered to make.
    pub fn on_reading(&self, now_ns: u64) {
        self.last_ns.set(now_ns);
    }

    pub fn is_open(&self) -> bool {
        self.since_ns.get().is_some()
    }

    /// What has ended since the last call, in nanoseconds.
    pub fn take(&self) -> Vec<u64> {
        self.ended.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_last_event_before_to_the_first_after() {
        let outage = Outage::default();
        outage.on_lost();
        assert!(!outage.is_open(), "nothing had come yet");
        outage.on_event(10);
        outage.on_lost();
        outage.on_lost();
        assert!(outage.is_open());
        outage.on_event(50);
        outage.on_event(60);
        assert_eq!((outage.take(), outage.take()), (vec![40], vec![]));
    }

    #[test]
    fn what_the_client_was_told_to_do_is_none() {
        let outage = Outage::default();
        outage.on_event(10);
        outage.on_left();
        outage.on_lost();
        outage.on_event(90);
        outage.on_reading(200);
        outage.on_lost();
        outage.on_event(230);
        assert_eq!(outage.take(), [30]);
    }
}
