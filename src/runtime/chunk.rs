//! Received bytes, on loan from the backend that received them: reading them copies nothing, dropping them gives the buffer back.
//!
//! A chunk belongs to its core (it is not `Send`) and is meant to be read and dropped before the next turn. What must be kept
//! is copied out by whoever keeps it.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::uring::buffers::Provided;

/// What one receive of epoll may bring. Larger brings fewer calls for a guild of a megabyte, smaller is fairer under flood.
pub const POOLED_BYTES: usize = 64 * 1024;

/// Spare buffers a pool keeps. A core holds one chunk at a time, as a rule; buffers beyond this are freed.
const POOL_KEEP: usize = 8;

/// The bytes of one receive; never empty when it comes in an event.
pub struct Chunk(Loan);

enum Loan {
    Provided(Provided),
    Pooled { pool: Rc<Pool>, buffer: Vec<u8>, len: usize },
}

impl Chunk {
    /// A buffer of the ring, filled by the kernel.
    pub(super) fn provided(buffer: Provided) -> Self {
        Self(Loan::Provided(buffer))
    }

    /// The first `len` bytes of a buffer that `Pool::take` gave.
    pub(super) fn pooled(pool: &Rc<Pool>, buffer: Vec<u8>, len: usize) -> Self {
        debug_assert!(len <= buffer.len());
        Self(Loan::Pooled { pool: Rc::clone(pool), buffer, len })
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Loan::Provided(buffer) => buffer,
            Loan::Pooled { buffer, len, .. } => &buffer[..*len],
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Loan::Pooled { pool, buffer, .. } = &mut self.0 {
            pool.give_back(std::mem::take(buffer));
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

/// Receive buffers of a backend without a kernel-side pool, each `POOLED_BYTES` long and initialised once. Grows with the chunks
/// that are alive at once, which is one unless the caller collects them.
#[derive(Default)]
pub(super) struct Pool {
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `POOLED_BYTES` bytes, of any content.
    pub(super) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| vec![0; POOLED_BYTES])
    }

    /// Keeps the buffer for the next `take`, or frees it when enough are kept.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < POOL_KEEP {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_chunk_is_the_next_buffer() {
        let pool = Rc::new(Pool::default());
        let mut buffer = pool.take();
        let place = buffer.as_ptr();
        buffer[..3].copy_from_slice(b"abc");
        let chunk = Chunk::pooled(&pool, buffer, 3);
        assert_eq!(&*chunk, b"abc");
        let other = pool.take();
        assert_ne!(other.as_ptr(), place);
        drop(chunk);
        let again = pool.take();
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn a_pool_keeps_few_buffers() {
        let pool = Rc::new(Pool::default());
        let taken: Vec<_> = (0..3 * POOL_KEEP).map(|_| Chunk::pooled(&pool, pool.take(), 0)).collect();
        drop(taken);
        assert_eq!(pool.spare.borrow().len(), POOL_KEEP);
    }
}
