//! Why connections to Discord were given up or lost, counted.

/// One for each way in which a connection, or an attempt at one, ends and another follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Discord sent a close frame, with a code that is not fatal.
    Closed,
    /// The connection ended without one.
    Lost,
    /// It could not be made, or not in time.
    Unreachable,
    /// No ACK came for a heartbeat.
    Zombie,
    /// No HELLO, no answer to IDENTIFY or RESUME in time.
    Silent,
    /// Op 7.
    Requested,
    /// Op 9.
    Invalid,
    /// A payload could not be read.
    Unreadable,
    /// HELLO came when the turn to IDENTIFY was over.
    Late,
}

impl Reconnect {
    /// In the order of the variants.
    pub const NAMES: [&str; 9] =
        ["closed", "lost", "unreachable", "zombie", "silent", "op_7", "op_9", "unreadable", "late_turn"];
}

/// By reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconnects(pub [u64; Reconnect::NAMES.len()]);

impl Reconnects {
    pub fn add(&mut self, why: Reconnect) {
        self.0[why as usize] += 1;
    }
}
