//! A core's table of connections, by token.

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

/// Slots are found by the token's lower half, and checked by the whole: a backend reuses the lower half under a new upper one.
#[derive(Default)]
pub struct Conns {
    slots: Vec<Slot>,
    clients: usize,
    /// Of them, those in the table that have no seat.
    greeting: usize,
    blocked: Vec<Token>,
}

impl Conns {
    pub fn insert(&mut self, token: Token, conn: Conn) {
        let at = token.slot();
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || Slot::Free);
        }
        if let Conn::Client(client) = &conn {
            self.clients += 1;
            self.greeting += usize::from(client.seated.is_none());
        }
        self.slots[at] = Slot::Used(token, conn);
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
            self.clients -= 1;
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
        self.clients -= 1;
    }

    /// All clients, in no order.
    pub fn clients(&self) -> Vec<Token> {
        let client = |it: &Slot| match it {
            Slot::Used(token, Conn::Client(_)) => Some(*token),
            _ => None,
        };
        self.slots.iter().filter_map(client).collect()
    }

    /// Connections of clients.
    pub fn clients_len(&self) -> usize {
        self.clients
    }

    /// Connections whose request or IDENTIFY has not come yet, one that is taken out not counted.
    pub fn greeting(&self) -> usize {
        self.greeting
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
