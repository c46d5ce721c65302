//! What the store needs of a disk: a handful of synchronous operations on files of one folder, named by a closed enum.
//!
//! It promises nothing about speed and knows no kernel; `runtime/storage` implements it over direct I/O and over plain files, `memory`
//! for tests.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::str::FromStr;

/// A file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// What the rest belongs to.
    Identity,
    /// The next `Identity`, until it is whole and renamed.
    IdentityNew,
    /// The write-ahead log.
    Wal(u64),
    /// Segments of the shards' logs.
    Log(u64),
    /// Checkpoints of the shards' state.
    State(u64),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::IdentityNew => f.write_str("identity.new"),
            Self::Wal(n) => write!(f, "wal-{n}"),
            Self::Log(n) => write!(f, "log-{n}"),
            Self::State(n) => write!(f, "state-{n}"),
        }
    }
}

/// Not a name that the store gives: such a file is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

impl FromStr for Name {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let name = match text.split_once('-') {
            None if text == "identity" => Self::Identity,
            None if text == "identity.new" => Self::IdentityNew,
            None => return Err(NotOurs),
            Some((family, number)) => {
                let number = number.parse().map_err(|_| NotOurs)?;
                match family {
                    "wal" => Self::Wal(number),
                    "log" => Self::Log(number),
                    "state" => Self::State(number),
                    _ => return Err(NotOurs),
                }
            }
        };
        // `wal-007` is somebody's copy, not ours.
        if name.to_string() == text { Ok(name) } else { Err(NotOurs) }
    }
}

/// A folder of files. Offsets and lengths of reads and writes are whole blocks (`format::BLOCK`).
///
/// What was written and returned is seen by every later read, also by another process after this one was killed. After a loss of power
/// only what `sync` returned for is sure; `create`, `truncate`, `rename` and `remove` are sure when they return.
///
/// Any error puts the store into its failed state: nothing is tried twice.
pub trait Disk {
    /// The store's files; others in the folder are left out.
    fn list(&mut self) -> io::Result<Vec<Name>>;

    /// Makes an empty file; one that is there is emptied.
    fn create(&mut self, name: Name) -> io::Result<()>;

    /// Bytes in a file; need not be whole blocks if something else has cut it.
    fn len(&mut self, name: Name) -> io::Result<u64>;

    /// Writes `bytes` at `offset`, all of them.
    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Replaces what is in `into` with up to `len` bytes from `offset` on: fewer only where the file ends.
    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()>;

    /// Makes what was written sure against a loss of power.
    fn sync(&mut self, name: Name) -> io::Result<()>;

    /// Cuts a file to `len` bytes.
    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()>;

    /// Gives a file another name; one that had it is gone.
    fn rename(&mut self, from: Name, to: Name) -> io::Result<()>;

    /// Removes a file. One that is not there is no error.
    fn remove(&mut self, name: Name) -> io::Result<()>;
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        (**self).list()
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        (**self).create(name)
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        (**self).len(name)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(name, offset, bytes)
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        (**self).read_at(name, offset, len, into)
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        (**self).sync(name)
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        (**self).truncate(name, len)
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        (**self).remove(name)
    }
}

/// For simulations: the disk stays when the store that wrote to it is dropped.
impl<D: Disk> Disk for Rc<RefCell<D>> {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        self.borrow_mut().list()
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        self.borrow_mut().create(name)
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        self.borrow_mut().len(name)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.borrow_mut().write_at(name, offset, bytes)
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.borrow_mut().read_at(name, offset, len, into)
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        self.borrow_mut().sync(name)
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        self.borrow_mut().truncate(name, len)
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        self.borrow_mut().rename(from, to)
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        self.borrow_mut().remove(name)
    }
}

/// Removes everything, `identity` first: without it nothing that is left is ever recovered. Tries each file; the first error is
/// yielded.
pub fn wipe(disk: &mut impl Disk) -> io::Result<()> {
    let mut names = disk.list()?;
    names.sort_unstable();
    let mut result = Ok(());
    for name in names {
        let removed = disk.remove(name);
        if result.is_ok() {
            result = removed;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_nothing_else_is_ours() {
        for name in [Name::Identity, Name::IdentityNew, Name::Wal(0), Name::Log(17), Name::State(u64::MAX)] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for text in ["", "lock", "wal-", "wal-x", "wal-007", "wal--1", "wal-+1", "wal", "log-1.bak", "snapshot-1"] {
            assert_eq!(text.parse::<Name>(), Err(NotOurs), "{text}");
        }
    }
}
