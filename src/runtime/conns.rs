//! A core's table of connections, by token.

use std::collections::VecDeque;
use std::time::Instant;

use super::client::Client;
use super::net::Token;

/// Whose bytes arrive at a token.
pub enum Conn {
    /// Discord's, for the shard at this place of the core.
    Shard(usize),
    Client(Box<Client>),
}

enum Slot {
    Free,
    /// The client is being worked on; whoever took it puts it back or has closed it.
    Taken(Token),
    Used(Token, Conn),
}

/// So many connections are looked at in search of a silent one.
const SEARCHED_MAX: usize = 64;

/// Slots are found by the token's lower half, and checked by the whole: a backend reuses the lower half under a new upper one.
#[derive(Default)]
pub struct Conns {
    slots: Vec<Slot>,
    /// Connections of clients in the table that have no seat.
    greeting: usize,
    /// Connections that had no seat, and when they had last been heard as they were queued: roughly by silence, the quietest first.
    /// Those that have gone or have a seat since are still in it.
    quiet: VecDeque<(Token, Instant)>,
    blocked: Vec<Token>,
}

impl Conns {
    pub fn insert(&mut self, token: Token, conn: Conn) {
        let at = token.slot();
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || Slot::Free);
        }
        let heard = match &conn {
            Conn::Client(client) => {
                self.greeting += usize::from(client.seated.is_none());
                Some(client.conversation.heard())
            }
            Conn::Shard(_) => None,
        };
        self.slots[at] = Slot::Used(token, conn);
        if let Some(heard) = heard {
            self.note_greeting(token, heard);
        }
    }

    pub fn get(&self, token: Token) -> Option<&Conn> {
        match self.slots.get(token.slot())? {
            Slot::Used(used, conn) if *used == token => Some(conn),
            _ => None,
        }
    }

    pub fn remove(&mut self, token: Token) -> Option<Conn> {
        let slot = self.slots.get_mut(token.slot())?;
        if !matches!(slot, Slot::Used(used, _) if *used == token) {
            return None;
        }
        let Slot::Used(_, conn) = std::mem::replace(slot, Slot::Free) else { return None };
        if let Conn::Client(client) = &conn {
            self.greeting -= usize::from(client.seated.is_none());
        }
        Some(conn)
    }

    /// Takes a client out to work on it, without giving up its slot.
    pub fn take_client(&mut self, token: Token) -> Option<Box<Client>> {
        let slot = self.slots.get_mut(token.slot())?;
        if !matches!(slot, Slot::Used(used, Conn::Client(_)) if *used == token) {
            return None;
        }
        match std::mem::replace(slot, Slot::Taken(token)) {
            Slot::Used(_, Conn::Client(client)) => {
                self.greeting -= usize::from(client.seated.is_none());
                Some(client)
            }
            _ => None,
        }
    }

    pub fn put_back(&mut self, token: Token, client: Box<Client>) {
        let slot = &mut self.slots[token.slot()];
        debug_assert!(matches!(slot, Slot::Taken(taken) if *taken == token));
        self.greeting += usize::from(client.seated.is_none());
        *slot = Slot::Used(token, Conn::Client(client));
    }

    /// The client that was taken out is gone.
    pub fn give_up(&mut self, token: Token) {
        let slot = &mut self.slots[token.slot()];
        debug_assert!(matches!(slot, Slot::Taken(taken) if *taken == token));
        *slot = Slot::Free;
    }

    /// All clients, in no order.
    pub fn clients(&self) -> Vec<Token> {
        let client = |it: &Slot| match it {
            Slot::Used(token, Conn::Client(_)) => Some(*token),
            _ => None,
        };
        self.slots.iter().filter_map(client).collect()
    }

    /// Connections whose request or IDENTIFY has not come yet, one that is taken out not counted.
    pub fn greeting(&self) -> usize {
        self.greeting
    }

    /// The client has no seat (any more).
    pub fn note_greeting(&mut self, token: Token, heard: Instant) {
        if self.quiet.len() > 2 * self.greeting + SEARCHED_MAX {
            let mut quiet = std::mem::take(&mut self.quiet);
            quiet.retain(|it| self.greeter(it.0).is_some());
            self.quiet = quiet;
        }
        self.quiet.push_back((token, heard));
    }

    /// The connection without a seat that has said nothing for longest, or nearly so; it is not named again unless it is noted again.
    pub fn quietest(&mut self) -> Option<(Token, Instant)> {
        let mut searched = 0;
        while let Some((token, heard_then)) = self.quiet.pop_front() {
            let Some(heard) = self.greeter(token) else { continue };
            if heard <= heard_then || searched == SEARCHED_MAX {
                return Some((token, heard));
            }
            searched += 1;
            self.quiet.push_back((token, heard));
        }
        None
    }

    /// Who was named stays, and is the first to be named again.
    pub fn spare(&mut self, token: Token, heard: Instant) {
        self.quiet.push_front((token, heard));
    }

    /// When a connection without a seat was last heard.
    fn greeter(&self, token: Token) -> Option<Instant> {
        match self.get(token)? {
            Conn::Client(client) if client.seated.is_none() => Some(client.conversation.heard()),
            _ => None,
        }
    }

    /// The client's outbox is full: `blocked` will name it once a second.
    pub fn note_blocked(&mut self, token: Token) {
        if !self.blocked.contains(&token) {
            self.blocked.push(token);
        }
    }

    /// The clients with a full outbox. Those that are blocked no more, or gone, drop out.
    pub fn blocked(&mut self) -> Vec<Token> {
        let mut blocked = std::mem::take(&mut self.blocked);
        blocked.retain(|token| matches!(self.get(*token), Some(Conn::Client(client)) if client.blocked.is_some()));
        self.blocked.clone_from(&blocked);
        blocked
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;
    use crate::session::client::{ClientLimits, Rules};
    use crate::session::payload::Token as BotToken;

    fn token(slot: u64) -> Token {
        Token(1 << super::super::net::SLOT_BITS | slot)
    }

    fn client(now: Instant) -> Conn {
        Conn::Client(Box::new(Client::new(now, Duration::from_secs(10))))
    }

    /// It says something at `now`.
    fn speak(conns: &mut Conns, token: Token, now: Instant) {
        let limits = ClientLimits::default();
        let rules = Rules { token: BotToken("a".into()), validate_token: true, shards: 0..1, shard_count: 1, limits };
        let mut client = conns.take_client(token).unwrap();
        client.conversation.on_payload(now, br#"{"op":1,"d":null}"#, &rules);
        conns.put_back(token, client);
    }

    #[test]
    fn the_one_that_has_been_silent_for_longest_is_named_first() {
        let (mut conns, begin) = (Conns::default(), clock::now());
        let at = |s| begin + Duration::from_secs(s);
        for slot in 0..4 {
            conns.insert(token(slot), client(at(slot)));
        }
        speak(&mut conns, token(0), at(9));
        speak(&mut conns, token(2), at(8));
        conns.remove(token(1));
        let named: Vec<u64> = std::iter::from_fn(|| conns.quietest()).map(|it| it.0.slot() as u64).collect();
        assert_eq!(named, [3, 0, 2]);
    }

    #[test]
    fn what_has_come_and_gone_does_not_pile_up() {
        let (mut conns, now) = (Conns::default(), clock::now());
        conns.insert(token(7), client(now));
        for generation in 2..10_000 {
            let passing = Token(generation << super::super::net::SLOT_BITS | 3);
            conns.insert(passing, client(now));
            conns.remove(passing);
        }
        assert!(conns.quiet.len() <= 2 * SEARCHED_MAX, "{}", conns.quiet.len());
        assert_eq!(conns.quietest(), Some((token(7), now)));
        conns.spare(token(7), now);
        assert_eq!(conns.quietest(), Some((token(7), now)));
        assert_eq!(conns.greeting(), 1);
    }
}
