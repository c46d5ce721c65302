//! One gateway session: its sequence and the log that RESUME replays from. No sockets decide anything here.

use std::collections::VecDeque;
use std::rc::Rc;

use super::connection::Connection;
use super::traffic::Event;

/// A dispatch, in a form that can be rendered again. What is large is rendered from the world.
#[derive(Clone, Debug)]
pub enum Entry {
    Ready,
    /// GUILD_CREATE of the guild with this index.
    Guild(u32),
    /// GUILD_DELETE of a guild in an outage.
    Outage(u32),
    Traffic(Event),
    /// A GUILD_MEMBERS_CHUNK, rendered when it is sent: all members of a large guild are hundreds of MB.
    Chunk(Rc<Chunk>),
    /// Event name and `d`, as they are.
    Raw(Rc<(String, String)>),
    /// A number that is never sent.
    Hole,
    Resumed,
}

/// Why a RESUME fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotResume {
    /// The client says it saw more than was sent: close 4007.
    Ahead,
    /// The log no longer reaches back that far: op 9 `d:false`.
    TooOld,
}

pub struct Session {
    pub id: String,
    pub last_seq: u64,
    log: VecDeque<Entry>,
    /// Entries that the log holds; when it is full the oldest falls off and can no longer be resumed from.
    log_max: usize,
    pub connection: Option<Rc<Connection>>,
    /// Since when there is no connection.
    pub gone_ns: u64,
    /// The number of the last dispatch that showed a guild whole at the start, and how much had changed by then.
    pub shown: (u64, u64),
}

/// A part of the answer to a request for members.
#[derive(Debug)]
pub struct Chunk {
    pub guild_index: u32,
    /// Member numbers.
    pub members: Vec<u32>,
    /// Ids as they were asked for, in quotes or not.
    pub not_found: Vec<String>,
    pub index: usize,
    pub count: usize,
    pub presences: bool,
    /// A JSON string.
    pub nonce: Option<String>,
}

impl Session {
    pub fn new(id: String, log_max: usize, connection: Rc<Connection>) -> Self {
        Self { id, last_seq: 0, log: VecDeque::new(), log_max, connection: Some(connection), gone_ns: 0, shown: (0, 0) }
    }

    /// Logs a dispatch and gives it its sequence number.
    pub fn append(&mut self, entry: Entry) -> u64 {
        if self.log.len() == self.log_max {
            self.log.pop_front();
        }
        self.log.push_back(entry);
        self.last_seq += 1;
        self.last_seq
    }

    /// The dispatches after `seq` with their sequence numbers, oldest first.
    pub fn after(&self, seq: u64) -> Result<Vec<(u64, Entry)>, CannotResume> {
        if seq > self.last_seq {
            return Err(CannotResume::Ahead);
        }
        let missed = (self.last_seq - seq) as usize;
        let skipped = self.log.len().checked_sub(missed).ok_or(CannotResume::TooOld)?;
        Ok((seq + 1..).zip(self.log.iter().skip(skipped).cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(appended: u64) -> Session {
        let mut session = Session {
            id: String::new(),
            last_seq: 0,
            log: VecDeque::new(),
            log_max: 4,
            connection: None,
            gone_ns: 0,
            shown: (0, 0),
        };
        for index in 1..=appended {
            assert_eq!(session.append(Entry::Guild(index as u32)), index);
        }
        session
    }

    #[test]
    fn what_followed_is_replayed_with_its_own_numbers() {
        let replay = session(6).after(4).unwrap();
        assert!(matches!(replay[..], [(5, Entry::Guild(5)), (6, Entry::Guild(6))]));
        assert!(session(6).after(6).unwrap().is_empty());
    }

    #[test]
    fn too_old_and_ahead_are_told_apart() {
        assert!(session(6).after(2).is_ok());
        assert_eq!(session(6).after(1).unwrap_err(), CannotResume::TooOld);
        assert_eq!(session(6).after(7).unwrap_err(), CannotResume::Ahead);
    }
}
