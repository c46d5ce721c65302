//! The buffers that the kernel fills by itself: a ring of descriptors shared with it (io_uring_register(2),
//! IORING_REGISTER_PBUF_RING) and one block of memory behind them.
//!
//! Who may touch a buffer: the kernel, from `give` until a completion names it; then the one `Provided` that was made for
//! the completion; and from its drop the kernel again. Nothing here calls the kernel: `Ring` registers the addresses, and
//! unregisters them before the memory goes away.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// What the kernel wants the descriptors aligned to. A multiple of any page size in use.
const ALIGNMENT: usize = 64 * 1024;

/// `count` buffers of `bytes` each, and the descriptors. Not `Send`: the core that made it is the only one to use it.
pub struct Buffers {
    entries: *mut BufRingEntry,
    data: *mut u8,
    count: u16,
    bytes: u32,
    /// Descriptors published so far, wrapping.
    tail: Cell<u16>,
    /// Buffers that are the kernel's, or whose completion has not been collected yet.
    free: Cell<u16>,
}

impl Buffers {
    /// All buffers are the kernel's from the start. `count` is a power of two up to 32768, `bytes` is above zero.
    pub fn new(count: u16, bytes: u32) -> Rc<Self> {
        assert!(count.is_power_of_two() && bytes > 0, "{count} buffers of {bytes} bytes");
        let buffers = Self {
            entries: allocate(entries_layout(count)).cast(),
            data: allocate(data_layout(count, bytes)),
            count,
            bytes,
            tail: Cell::new(0),
            free: Cell::new(0),
        };
        for id in 0..count {
            buffers.give(id);
        }
        Rc::new(buffers)
    }

    /// Address of the descriptors, for the registration.
    pub fn ring_address(&self) -> u64 {
        self.entries as u64
    }

    /// How many descriptors there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// How many buffers the kernel can still fill; too high by the completions that were not collected yet.
    pub fn free(&self) -> u16 {
        self.free.get()
    }

    /// Takes over buffer `id`, of which the kernel has filled the first `len` bytes.
    ///
    /// # Safety
    /// A completion of the ring where these buffers are registered named `id`, and this is the only call for that completion.
    pub unsafe fn claim(self: &Rc<Self>, id: u16, len: u32) -> Provided {
        assert!(id < self.count && len <= self.bytes, "the kernel named buffer {id} with {len} bytes");
        self.free.set(self.free.get() - 1);
        Provided { buffers: Rc::clone(self), id, len }
    }

    /// Publishes buffer `id` to the kernel, which may fill it from now on.
    fn give(&self, id: u16) {
        let tail = self.tail.get();
        let at = usize::from(tail & (self.count - 1));
        let address = self.data as u64 + u64::from(id) * u64::from(self.bytes);
        // SAFETY: `at < count`, so the descriptor is inside the allocation. The kernel does not read descriptors at or
        // behind the tail, which still is `tail`.
        let entry = unsafe { &mut *self.entries.add(at) };
        entry.set_addr(address);
        entry.set_len(self.bytes);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        self.free.set(self.free.get() + 1);
        // SAFETY: the tail lies in a field of the first descriptor that the writes above do not touch; it is two bytes,
        // aligned to two, and only read by the kernel. Release: the descriptor is visible before the tail is.
        unsafe {
            let shared = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*shared).store(self.tail.get(), Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both came from `alloc_zeroed` with these layouts, and nothing refers to them any more: each `Provided`
        // holds the Rc, and `Ring` unregisters the descriptors before it lets go of its own.
        unsafe {
            dealloc(self.entries.cast(), entries_layout(self.count));
            dealloc(self.data, data_layout(self.count, self.bytes));
        }
    }
}

/// One filled buffer, ours until it is dropped.
pub struct Provided {
    buffers: Rc<Buffers>,
    id: u16,
    len: u32,
}

impl Deref for Provided {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let offset = usize::from(self.id) * self.buffers.bytes as usize;
        // SAFETY: `claim` checked `id` and `len`, so the range is inside the allocation, which was zeroed and is therefore
        // initialised. The kernel does not write to the buffer before the drop gives it back.
        unsafe { std::slice::from_raw_parts(self.buffers.data.add(offset), self.len as usize) }
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        self.buffers.give(self.id);
    }
}

fn entries_layout(count: u16) -> Layout {
    Layout::array::<BufRingEntry>(usize::from(count)).and_then(|it| it.align_to(ALIGNMENT)).expect("at most 512 KiB")
}

fn data_layout(count: u16, bytes: u32) -> Layout {
    Layout::from_size_align(usize::from(count) * bytes as usize, ALIGNMENT).expect("fits the address space")
}

fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: the layout's size is not zero: count and bytes are not.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the kernel: takes the oldest published descriptor and writes into its buffer.
    fn fill(buffers: &Rc<Buffers>, head: &mut u16, text: &[u8]) -> Provided {
        // SAFETY: single thread; the descriptor and the buffer behind it are the kernel's, which is played here.
        let id = unsafe {
            let shared = BufRingEntry::tail(buffers.entries).cast::<AtomicU16>();
            assert_ne!((*shared).load(Ordering::Acquire), *head, "no buffer left");
            let entry = &*buffers.entries.add(usize::from(*head & (buffers.count - 1)));
            assert_eq!(entry.len(), buffers.bytes);
            let offset = (entry.addr() - buffers.data as u64) as usize;
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffers.data.add(offset), text.len());
            entry.bid()
        };
        *head = head.wrapping_add(1);
        // SAFETY: called once for this "completion".
        unsafe { buffers.claim(id, text.len() as u32) }
    }

    #[test]
    fn each_buffer_holds_its_own_bytes_and_returns_when_dropped() {
        let buffers = Buffers::new(4, 16);
        let mut head = 0;
        for round in 0..5 {
            let taken: Vec<_> = (0..4).map(|it| fill(&buffers, &mut head, &[round * 4 + it; 16])).collect();
            assert_eq!(buffers.free(), 0);
            for (it, bytes) in taken.iter().enumerate() {
                assert_eq!(**bytes, [round * 4 + it as u8; 16]);
            }
            drop(taken);
            assert_eq!(buffers.free(), 4);
        }
    }

    #[test]
    fn a_chunk_outlives_the_ring_that_received_it() {
        let buffers = Buffers::new(2, 8);
        let bytes = fill(&buffers, &mut 0, b"stays");
        drop(buffers);
        assert_eq!(&*bytes, b"stays");
    }

    #[test]
    #[should_panic(expected = "named buffer")]
    fn a_buffer_that_does_not_exist_is_refused() {
        let buffers = Buffers::new(2, 8);
        // SAFETY: no completion named it, which is what the assertion in `claim` catches.
        unsafe { buffers.claim(2, 0) };
    }
}
