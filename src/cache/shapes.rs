//! What the caches of one core share: made once per core, and handed to each of its shards.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

/// A cheap handle to what the caches of one core share. It stays on its thread.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    table: Rc<RefCell<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    bytes: usize,
}

impl Shapes {
    /// Heap bytes of the shared table, divided by those who hold it: the sum over all caches is the table once.
    pub fn bytes_share(&self) -> u64 {
        (self.table.borrow().bytes / Rc::strong_count(&self.table)) as u64
    }
}
