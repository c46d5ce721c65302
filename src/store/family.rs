//! A numbered series of blob files, `log-<n>` or `state-<n>`: appended to, finished, read, walked at recovery.
//!
//! It keeps the sizes of its files and the list of the open one. What each blob is for, and when a file may go, it does not know.

use std::collections::BTreeMap;
use std::io;

use super::blob::{self, Entry};
use super::disk::{Disk, Name};
use super::format::{self, BLOCK, align_down, align_up};
use crate::wire::ShardId;

/// An unfinished file is walked in pieces of at least this; a larger blob is read whole. Clients wait for it, so that it is more than a disk takes at once.
const WALK_BYTES: usize = 4 << 20;

/// Blobs visited in the order of their places are read in pieces of at least this.
const READ_BYTES: usize = 1024 * 1024;

/// A footer is looked for in so many bytes at the end of a file; a longer one is read again, whole.
const FOOTER_READ_BYTES: u64 = 16 << 10;

/// The buffer of blobs that wait to be written is given back above this.
const GROUP_KEPT_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Log,
    State,
}

impl Kind {
    fn name(self, file: u64) -> Name {
        match self {
            Self::Log => Name::Log(file),
            Self::State => Name::State(file),
        }
    }
}

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: u64,
    pub entry: Entry,
}

#[derive(Debug)]
struct Open {
    file: u64,
    created: bool,
    /// Bytes written; the group that waits begins here.
    len: u64,
    entries: Vec<Entry>,
}

/// Files are appended to one at a time; `files` has the bytes of each on disk, the open one included.
#[derive(Debug)]
pub struct Family {
    kind: Kind,
    /// A file is finished when it has reached this.
    file_bytes_max: u64,
    files: BTreeMap<u64, u64>,
    open: Option<Open>,
    next_file: u64,
    group: Vec<u8>,
    unsynced: Vec<u64>,
}

impl Family {
    pub fn new(kind: Kind, file_bytes_max: u64) -> Self {
        Self {
            kind,
            file_bytes_max,
            files: BTreeMap::new(),
            open: None,
            next_file: 1,
            group: Vec::new(),
            unsynced: Vec::new(),
        }
    }

    /// Goes on after an earlier process, behind what the survey found, and leaves all files finished. `counts` decides which blobs are
    /// kept; one that is not is never listed again. New files get numbers above `named`.
    pub fn recover(
        survey: Survey,
        named: u64,
        file_bytes_max: u64,
        disk: &mut impl Disk,
        mut counts: impl FnMut(&Entry) -> bool,
        mut on_entry: impl FnMut(Place),
    ) -> io::Result<Self> {
        let kind = survey.kind;
        let mut family = Self::new(kind, file_bytes_max);
        family.next_file = named + 1;
        for (file, found) in survey.files {
            family.next_file = family.next_file.max(file + 1);
            let name = kind.name(file);
            let Found { mut entries, mut end, finished } = found;
            let all = entries.len();
            entries.retain(&mut counts);
            if entries.is_empty() {
                disk.remove(name)?;
                continue;
            }
            if !finished || entries.len() < all {
                disk.truncate(name, end)?;
                let footer = blob::footer(file, end, &entries);
                disk.write_at(name, end, &footer)?;
                disk.sync(name)?;
                end += footer.len() as u64;
            }
            family.files.insert(file, end);
            entries.into_iter().for_each(|entry| on_entry(Place { file, entry }));
        }
        Ok(family)
    }

    /// Up to where everything is written: file and bytes.
    pub fn end(&self) -> (u64, u64) {
        self.open.as_ref().map_or((0, 0), |it| (it.file, it.len))
    }

    /// Takes a blob in; it is on disk after `flush`. The file that gets it is created then.
    pub fn append(&mut self, shard: ShardId, a: u64, b: u64, batch: u64, bytes: &[u8]) -> Place {
        let next = &mut self.next_file;
        let open = self.open.get_or_insert_with(|| {
            *next += 1;
            Open { file: *next - 1, created: false, len: 0, entries: Vec::new() }
        });
        let offset = open.len + self.group.len() as u64;
        let entry = Entry {
            shard,
            a,
            b,
            batch,
            offset: u32::try_from(offset).expect("a file ends before 4 GiB"),
            len: u32::try_from(bytes.len()).expect("a blob is below 4 GiB"),
        };
        blob::append(&mut self.group, open.file, &entry, bytes);
        open.entries.push(entry);
        Place { file: open.file, entry }
    }

    /// Bytes that are yet to be written: what was taken in, and the footer of the open file.
    pub fn pending_bytes(&self) -> u64 {
        let footer = self.open.as_ref().map_or(0, |it| blob::footer_bytes(it.entries.len()));
        align_up(self.group.len() as u64) + footer
    }

    /// Bytes taken in and not yet written.
    pub fn collected(&self) -> usize {
        self.group.len()
    }

    /// Writes what was taken in, and finishes the file when it is full. Returns the bytes written.
    pub fn flush(&mut self, disk: &mut impl Disk) -> io::Result<u64> {
        let Some(open) = &mut self.open else { return Ok(0) };
        if self.group.is_empty() {
            return Ok(0);
        }
        let name = self.kind.name(open.file);
        if !open.created {
            disk.create(name)?;
            open.created = true;
        }
        format::pad(&mut self.group);
        disk.write_at(name, open.len, &self.group)?;
        let mut written = self.group.len() as u64;
        open.len += written;
        self.files.insert(open.file, open.len);
        if self.unsynced.last() != Some(&open.file) {
            self.unsynced.push(open.file);
        }
        self.group.clear();
        self.group.shrink_to(GROUP_KEPT_MAX);
        if open.len >= self.file_bytes_max {
            let footer = blob::footer(open.file, open.len, &open.entries);
            disk.write_at(name, open.len, &footer)?;
            written += footer.len() as u64;
            self.files.insert(open.file, open.len + footer.len() as u64);
            // What the next file holds may lean on this one.
            disk.sync(name)?;
            self.open = None;
        }
        Ok(written)
    }

    /// Whether the open file, with what waits for it, has reached its size: it must be flushed before more is taken in.
    pub fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|it| it.len + self.group.len() as u64 >= self.file_bytes_max)
    }

    pub fn sync(&mut self, disk: &mut impl Disk) -> io::Result<()> {
        for file in std::mem::take(&mut self.unsynced) {
            if self.files.contains_key(&file) {
                disk.sync(self.kind.name(file))?;
            }
        }
        Ok(())
    }

    /// The blob's bytes; `None` when the disk gives back something else than was written.
    pub fn read(&self, disk: &mut impl Disk, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let entry = &place.entry;
        if let Some(open) = self.open.as_ref().filter(|it| it.file == place.file)
            && let Some(at) = u64::from(entry.offset).checked_sub(open.len)
        {
            return Ok(blob::verify(place.file, entry, &self.group[at as usize..]).map(<[u8]>::to_vec));
        }
        let from = align_down(entry.offset.into());
        let mut bytes = Vec::new();
        disk.read_at(self.kind.name(place.file), from, (align_up(entry.end()) - from) as usize, &mut bytes)?;
        let start = (u64::from(entry.offset) - from) as usize;
        let Some(found) = bytes.get(start..).and_then(|it| blob::verify(place.file, entry, it)) else {
            return Ok(None);
        };
        let len = found.len();
        bytes.drain(..start + blob::HEADER_BYTES);
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    /// Reads as `read`, for blobs visited in the order of their places: `window` is kept between calls and holds what lies around.
    pub fn read_in_passing<'a>(
        &self,
        disk: &mut impl Disk,
        place: &Place,
        window: &'a mut Window,
    ) -> io::Result<Option<&'a [u8]>> {
        let entry = &place.entry;
        let (from, end) = (align_down(entry.offset.into()), align_up(entry.end()));
        if window.file != Some(place.file) || from < window.at || end > window.at + window.bytes.len() as u64 {
            window.file = Some(place.file);
            window.at = from;
            let len = ((end - from) as usize).max(READ_BYTES);
            disk.read_at(self.kind.name(place.file), from, len, &mut window.bytes)?;
        }
        let start = (u64::from(entry.offset) - window.at) as usize;
        Ok(window.bytes.get(start..).and_then(|it| blob::verify(place.file, entry, it)))
    }

    /// The oldest finished file.
    pub fn oldest_finished(&self) -> Option<u64> {
        let open = self.open.as_ref().map(|it| it.file);
        self.files.keys().copied().find(|it| Some(*it) != open)
    }

    pub fn remove(&mut self, disk: &mut impl Disk, file: u64) -> io::Result<()> {
        disk.remove(self.kind.name(file))?;
        self.files.remove(&file);
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }
}

/// What `read_in_passing` keeps.
#[derive(Debug, Default)]
pub struct Window {
    file: Option<u64>,
    at: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Found {
    entries: Vec<Entry>,
    /// Where they end; of a finished file, where the footer does.
    end: u64,
    finished: bool,
}

/// What is whole in the files of one kind, before anything is changed.
#[derive(Debug)]
pub struct Survey {
    kind: Kind,
    files: BTreeMap<u64, Found>,
}

impl Survey {
    pub fn take(kind: Kind, disk: &mut impl Disk) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for name in disk.list()? {
            let file = match (kind, name) {
                (Kind::Log, Name::Log(file)) | (Kind::State, Name::State(file)) => file,
                _ => continue,
            };
            let len = disk.len(name)?;
            let found = match read_footer(disk, name, file, len)? {
                Some(entries) => Found { entries, end: len, finished: true },
                None => walk(disk, name, file, len)?,
            };
            files.insert(file, found);
        }
        Ok(Self { kind, files })
    }

    /// Whether everything up to `end` of `file` is there. A file that is not there at all was removed when it was not needed any more.
    pub fn reaches(&self, (file, end): (u64, u64)) -> bool {
        self.files.get(&file).is_none_or(|it| it.finished || it.end >= end)
    }
}

/// The entries of a finished file; `None` when it has no good footer.
fn read_footer(disk: &mut impl Disk, name: Name, file: u64, len: u64) -> io::Result<Option<Vec<Entry>>> {
    if len < BLOCK as u64 || !len.is_multiple_of(BLOCK as u64) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut from = len.saturating_sub(FOOTER_READ_BYTES);
    disk.read_at(name, from, (len - from) as usize, &mut bytes)?;
    let last_block = bytes.len().checked_sub(BLOCK).map_or(&[][..], |at| &bytes[at..]);
    let Some((offset, count)) = blob::footer_at(file, len, last_block) else { return Ok(None) };
    if offset < from {
        from = offset;
        disk.read_at(name, from, (len - from) as usize, &mut bytes)?;
    }
    Ok(bytes.get((offset - from) as usize..).and_then(|it| blob::entries(file, offset, count, it)))
}

/// The whole blobs of a file without footer, and where they end.
fn walk(disk: &mut impl Disk, name: Name, file: u64, len: u64) -> io::Result<Found> {
    let mut entries = Vec::new();
    let (mut window, mut window_at) = (Vec::new(), 0u64);
    let (mut at, mut end) = (0u64, 0u64);
    let mut load = |from: u64, to: u64, window: &mut Vec<u8>, window_at: &mut u64| -> io::Result<()> {
        if from < *window_at || to > *window_at + window.len() as u64 {
            *window_at = align_down(from);
            let wanted = (align_up(to) - *window_at).max(WALK_BYTES as u64).min(align_up(len) - *window_at);
            disk.read_at(name, *window_at, wanted as usize, window)?;
        }
        Ok(())
    };
    while at + blob::HEADER_BYTES as u64 <= len {
        load(at, at + blob::HEADER_BYTES as u64, &mut window, &mut window_at)?;
        let header = window.get((at - window_at) as usize..).and_then(|it| blob::claimed(file, at, it));
        let Some(entry) = header.filter(|it| it.bytes_end() <= len) else {
            // Behind a group's last blob there are zeros up to the next group.
            let next = align_up(at);
            if next == at {
                break;
            }
            at = next;
            continue;
        };
        load(at, entry.bytes_end(), &mut window, &mut window_at)?;
        let bytes = window.get((at - window_at) as usize..);
        if bytes.and_then(|it| blob::verify(file, &entry, it)).is_none() {
            break;
        }
        at = entry.end();
        end = align_up(at);
        entries.push(entry);
    }
    Ok(Found { entries, end, finished: false })
}
