//! The bytes one socket still has to send. It has no socket and no limit of its own: `Net::pending` tells the caller how much
//! lies here, and the caller, who knows whom it serves, stops filling at its own limit.
#![forbid(unsafe_code)]

/// An outbox larger than this gives its memory back when it runs empty: one burst must not be paid for forever.
const KEEP_BYTES: usize = 32 * 1024;

/// Bytes in order; those before `sent` are gone already and are cut off in larger steps, so that a slow reader
/// does not cost a move of everything for each short send.
///
/// 0 ≤ sent ≤ bytes.len(), and sent = 0 when there is nothing pending.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Where to append.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is still to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The length of `unsent`.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The kernel has taken this many more bytes; at most `pending`.
    pub fn advance(&mut self, taken: usize) {
        assert!(taken <= self.pending(), "the kernel took more than it was given");
        self.sent += taken;
        if self.pending() == 0 {
            self.clear();
        } else if self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Forgets everything, and gives back memory beyond `KEEP_BYTES`.
    pub fn clear(&mut self) {
        self.sent = 0;
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }

    /// What was not sent, without what was.
    pub fn into_unsent(mut self) -> Vec<u8> {
        self.bytes.drain(..self.sent);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_outbox_keeps_a_little_memory_and_no_more() {
        let mut outbox = Outbox::default();
        outbox.tail().extend([1; KEEP_BYTES / 2]);
        outbox.advance(KEEP_BYTES / 2);
        assert!(outbox.tail().capacity() >= KEEP_BYTES / 2);
        outbox.tail().extend(vec![1; KEEP_BYTES * 4]);
        outbox.advance(KEEP_BYTES * 4);
        assert_eq!(outbox.tail().capacity(), 0);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in proptest::collection::vec((0usize..200, 0usize..200), 0..50)) {
            let mut outbox = Outbox::default();
            let (mut put, mut out) = (Vec::new(), Vec::new());
            for (append, take) in steps {
                for _ in 0..append {
                    let byte = (put.len() % 251) as u8;
                    put.push(byte);
                    outbox.tail().push(byte);
                }
                let take = take.min(outbox.pending());
                out.extend_from_slice(&outbox.unsent()[..take]);
                outbox.advance(take);
            }
            out.extend(outbox.into_unsent());
            prop_assert_eq!(out, put);
        }
    }
}
