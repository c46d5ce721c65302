//! The write-ahead log: what happened, all shards mixed, in files `wal-<n>` of batches.
//!
//! A batch is what was written at once: header, records, zeros up to a whole block. Batches are numbered through all files; each names
//! the one it follows, and how far the files of segments and checkpoints had been written before it. So what is recovered is always a
//! prefix of what was written: the first batch that is torn, foreign, or whose segments and checkpoints are not all there ends it, and
//! everything behind is cut off. Records are not interpreted here.

use std::collections::BTreeMap;
use std::io;

use super::disk::{Disk, Name};
use super::format::{self, BLOCK, Fields, align_up};

const MAGIC: u32 = u32::from_le_bytes(*b"SGwb");

/// magic u32 | len u32 | file u64 | number u64 | follows u64 | log file u64, end u64 | state file u64, end u64 | crc32 of all that and
/// the records u32
const HEADER_BYTES: usize = 68;

/// How far the files of segments and checkpoints are written: file and bytes of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub log: (u64, u64),
    pub state: (u64, u64),
}

/// Files are read in pieces of at least this.
const READ_BYTES: usize = 4 << 20;

/// A batch's buffer above this is given back after use.
const BATCH_KEPT_MAX: usize = 4 << 20;

/// What a batch's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    len: u32,
    file: u64,
    number: u64,
    follows: u64,
    ends: Ends,
}

impl Header {
    fn encode(self, records: &[u8]) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.file.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.follows.to_le_bytes());
        let Ends { log, state } = self.ends;
        for (n, number) in [log.0, log.1, state.0, state.1].into_iter().enumerate() {
            out[32 + 8 * n..40 + 8 * n].copy_from_slice(&number.to_le_bytes());
        }
        let crc = format::checksum(&[&out[..64], records]);
        out[64..68].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != MAGIC {
            return None;
        }
        let len = fields.u32()?;
        let (file, number, follows) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let ends = Ends { log: (fields.u64()?, fields.u64()?), state: (fields.u64()?, fields.u64()?) };
        Some(Self { len, file, number, follows, ends })
    }
}

/// Numbers begin at 1: 0 is what the very first batch follows.
#[derive(Debug)]
pub struct Wal {
    /// Bytes of each file that is still needed, the open one last.
    files: BTreeMap<u64, u64>,
    open: Option<u64>,
    next_file: u64,
    /// The newest batch that counts, and the number of the next.
    last: u64,
    next: u64,
    /// The batch that is being collected, behind room for its header.
    batch: Vec<u8>,
    /// Something was written to the open file since the last sync.
    unsynced: bool,
    /// The newest files of segments and of checkpoints that a batch has named.
    named: (u64, u64),
}

impl Default for Wal {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            open: None,
            next_file: 1,
            last: 0,
            next: 1,
            batch: vec![0; HEADER_BYTES],
            unsynced: false,
            named: (0, 0),
        }
    }
}

impl Wal {
    /// Reads all files, oldest first, hands over each batch's records, and cuts off what does not count. `is_there` says whether segments and
    /// checkpoints are written so far. What follows is written to a new file.
    pub fn recover(
        disk: &mut impl Disk,
        is_there: impl Fn(&Ends) -> bool,
        mut on_records: impl FnMut(&[u8]),
    ) -> io::Result<Self> {
        let mut wal = Self::default();
        let mut files = Vec::new();
        for name in disk.list()? {
            if let Name::Wal(file) = name {
                files.push((file, disk.len(name)?));
            }
        }
        files.sort_unstable();
        wal.next_file = files.last().map_or(1, |it| it.0 + 1);
        // Only the oldest file may begin anywhere: what was before it was not needed any more.
        let (mut begun, mut ended) = (false, false);
        for (file, len) in files {
            if ended || len == 0 {
                disk.remove(Name::Wal(file))?;
                continue;
            }
            let follows = begun.then_some(wal.last);
            begun = true;
            let read = read_file(disk, file, len, follows, &is_there, &mut on_records)?;
            wal.last = read.last.unwrap_or(wal.last);
            wal.named = (wal.named.0.max(read.named.0), wal.named.1.max(read.named.1));
            wal.files.insert(file, read.end);
            if read.end < len {
                disk.truncate(Name::Wal(file), read.end)?;
                ended = true;
            }
        }
        wal.next = wal.last + 1;
        Ok(wal)
    }

    /// The newest batch that counts; 0: none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The batch that holds, or will hold, everything collected so far.
    pub fn covering(&self) -> u64 {
        if self.is_collecting() { self.next } else { self.last }
    }

    /// The newest files of segments and of checkpoints that recovered batches name. Other files must not get these numbers: a batch would
    /// take them for the ones that it followed.
    pub fn named(&self) -> (u64, u64) {
        self.named
    }

    /// Numbers up to `number` were given to what is no longer counted: they are not given again.
    pub fn skip(&mut self, number: u64) {
        self.next = self.next.max(number + 1);
    }

    pub fn is_collecting(&self) -> bool {
        self.batch.len() > HEADER_BYTES
    }

    /// Bytes collected for the next batch.
    pub fn collected(&self) -> usize {
        self.batch.len() - HEADER_BYTES
    }

    pub fn on_records(&mut self, records: &[u8]) {
        self.batch.extend_from_slice(records);
    }

    /// Bytes that the collected batch takes on disk.
    pub fn batch_bytes(&self) -> u64 {
        if self.is_collecting() { align_up(self.batch.len() as u64) } else { 0 }
    }

    /// Writes what was collected, after segments and checkpoints were written up to `ends`. Returns the bytes written.
    pub fn write(&mut self, disk: &mut impl Disk, ends: Ends) -> io::Result<u64> {
        if !self.is_collecting() {
            return Ok(0);
        }
        let file = self.open_file(disk)?;
        let len = u32::try_from(self.collected()).map_err(|_| io::Error::other("a batch of 4 GiB"))?;
        let header = Header { len, file, number: self.next, follows: self.last, ends };
        let (room, records) = self.batch.split_at_mut(HEADER_BYTES);
        room.copy_from_slice(&header.encode(records));
        format::pad(&mut self.batch);
        let offset = self.files.get_mut(&file).expect("the open file is counted");
        disk.write_at(Name::Wal(file), *offset, &self.batch)?;
        let written = self.batch.len() as u64;
        *offset += written;
        self.unsynced = true;
        self.last = self.next;
        self.next += 1;
        self.batch.truncate(HEADER_BYTES);
        self.batch.shrink_to(BATCH_KEPT_MAX);
        Ok(written)
    }

    fn open_file(&mut self, disk: &mut impl Disk) -> io::Result<u64> {
        if let Some(file) = self.open {
            return Ok(file);
        }
        let file = self.next_file;
        disk.create(Name::Wal(file))?;
        self.next_file += 1;
        self.files.insert(file, 0);
        self.open = Some(file);
        Ok(file)
    }

    /// The next batch goes to a new file, whose number is returned.
    pub fn rotate(&mut self, disk: &mut impl Disk) -> io::Result<u64> {
        self.sync(disk)?;
        self.open = None;
        self.open_file(disk)
    }

    /// Bytes in the open file.
    pub fn open_bytes(&self) -> u64 {
        self.open.map_or(0, |it| self.files[&it])
    }

    pub fn sync(&mut self, disk: &mut impl Disk) -> io::Result<()> {
        if let Some(file) = self.open
            && std::mem::take(&mut self.unsynced)
        {
            disk.sync(Name::Wal(file))?;
        }
        Ok(())
    }

    /// The oldest file that is still kept.
    pub fn oldest(&self) -> Option<u64> {
        self.files.first_key_value().map(|(file, _)| *file)
    }

    /// Removes the files before `file`, oldest first, so that what is left after a crash is still without a hole.
    pub fn remove_before(&mut self, disk: &mut impl Disk, file: u64) -> io::Result<()> {
        while let Some(oldest) = self.oldest().filter(|it| *it < file && Some(*it) != self.open) {
            disk.remove(Name::Wal(oldest))?;
            self.files.remove(&oldest);
        }
        Ok(())
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().sum()
    }
}

struct Read {
    /// The last batch that counts.
    last: Option<u64>,
    /// Where it ends.
    end: u64,
    named: (u64, u64),
}

/// Reads one file's batches until one does not count. `follows`: the batch that the first one must follow, `None` when any will do.
fn read_file(
    disk: &mut impl Disk,
    file: u64,
    len: u64,
    mut follows: Option<u64>,
    is_there: &impl Fn(&Ends) -> bool,
    on_records: &mut impl FnMut(&[u8]),
) -> io::Result<Read> {
    let (mut last, mut named) = (None, (0, 0));
    let (mut window, mut window_at) = (Vec::new(), 0u64);
    let mut at = 0u64;
    while at < len {
        fill(disk, Name::Wal(file), at, HEADER_BYTES, len, &mut window, &mut window_at)?;
        let Some(header) = Header::decode(&window[(at - window_at) as usize..]) else { break };
        let whole = HEADER_BYTES as u64 + u64::from(header.len);
        let fits =
            header.file == file && follows.is_none_or(|it| it == header.follows) && header.number > header.follows;
        if !fits || whole > len - at || !is_there(&header.ends) {
            break;
        }
        fill(disk, Name::Wal(file), at, whole as usize, len, &mut window, &mut window_at)?;
        let start = (at - window_at) as usize;
        let Some(batch) = window.get(start..start + whole as usize) else { break };
        let records = &batch[HEADER_BYTES..];
        if batch[..HEADER_BYTES] != header.encode(records) {
            break;
        }
        on_records(records);
        last = Some(header.number);
        follows = last;
        named = (header.ends.log.0.max(named.0), header.ends.state.0.max(named.1));
        at += align_up(whole);
    }
    Ok(Read { last, end: at, named })
}

/// Makes `window` hold `wanted` bytes from `at` on, or up to the end of the file.
fn fill(
    disk: &mut impl Disk,
    name: Name,
    at: u64,
    wanted: usize,
    len: u64,
    window: &mut Vec<u8>,
    window_at: &mut u64,
) -> io::Result<()> {
    let end = (at + wanted as u64).min(len);
    if at >= *window_at && end <= *window_at + window.len() as u64 {
        return Ok(());
    }
    *window_at = at;
    let bytes = wanted.max(READ_BYTES).next_multiple_of(BLOCK).min(align_up(len - at) as usize);
    disk.read_at(name, at, bytes, window)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    fn written(batches: &[&[u8]], rotate_after: usize) -> MemoryDisk {
        let mut disk = MemoryDisk::default();
        let mut wal = Wal::default();
        for (n, batch) in batches.iter().enumerate() {
            wal.on_records(batch);
            wal.write(&mut disk, Ends::default()).unwrap();
            if n + 1 == rotate_after {
                wal.rotate(&mut disk).unwrap();
            }
        }
        disk
    }

    fn read(disk: &mut MemoryDisk) -> (Wal, Vec<Vec<u8>>) {
        let mut found = Vec::new();
        let wal = Wal::recover(disk, |_| true, |it| found.push(it.to_vec())).unwrap();
        (wal, found)
    }

    #[test]
    fn batches_come_back_in_order_over_several_files() {
        let mut disk = written(&[b"one", &[2; 5000], b"three"], 2);
        assert_eq!(disk.names(), [Name::Wal(1), Name::Wal(2)]);
        let (wal, found) = read(&mut disk);
        assert_eq!(found, [b"one".to_vec(), vec![2; 5000], b"three".to_vec()]);
        assert_eq!((wal.last(), wal.files(), wal.oldest()), (3, 2, Some(1)));
    }

    #[test]
    fn a_torn_batch_ends_the_reading_and_what_is_written_afterwards_follows_the_good_ones() {
        let mut disk = written(&[b"one", b"two", b"three"], 9);
        disk.file_mut(Name::Wal(1)).truncate(2 * BLOCK + 20);
        let (mut wal, found) = read(&mut disk);
        assert_eq!(found, [b"one", b"two"]);
        wal.on_records(b"another three");
        wal.write(&mut disk, Ends::default()).unwrap();
        let (_, found) = read(&mut disk);
        assert_eq!(found, [&b"one"[..], b"two", b"another three"]);
    }

    #[test]
    fn a_later_file_does_not_count_when_what_it_follows_is_lost() {
        let mut disk = written(&[b"one", b"two", b"three"], 2);
        disk.file_mut(Name::Wal(1))[BLOCK + 1] ^= 1;
        let (mut wal, found) = read(&mut disk);
        assert_eq!(found, [b"one"]);
        wal.on_records(b"new two");
        wal.write(&mut disk, Ends::default()).unwrap();
        assert_eq!(read(&mut disk).1, [&b"one"[..], b"new two"]);
    }

    #[test]
    fn without_the_oldest_files_beginning_nothing_counts() {
        let mut disk = written(&[b"one", b"two", b"three"], 1);
        disk.file_mut(Name::Wal(1))[0] ^= 1;
        assert!(read(&mut disk).1.is_empty());
    }

    #[test]
    fn a_file_that_was_made_and_not_written_does_no_harm() {
        let mut disk = written(&[b"one"], 1);
        assert_eq!(disk.names(), [Name::Wal(1), Name::Wal(2)]);
        let (mut wal, _) = read(&mut disk);
        wal.on_records(b"two");
        wal.write(&mut disk, Ends::default()).unwrap();
        assert_eq!(disk.names(), [Name::Wal(1), Name::Wal(3)]);
        assert_eq!(read(&mut disk).1, [b"one", b"two"]);
    }

    #[test]
    fn a_batch_counts_only_with_what_was_written_before_it() {
        let mut disk = MemoryDisk::default();
        let mut wal = Wal::default();
        for n in 0..3 {
            wal.on_records(&[n]);
            wal.write(&mut disk, Ends { log: (1, 4096 * u64::from(n)), state: (0, 0) }).unwrap();
        }
        let mut found = Vec::new();
        Wal::recover(&mut disk, |ends| ends.log.1 <= 4096, |it| found.extend_from_slice(it)).unwrap();
        assert_eq!(found, [0, 1]);
        assert_eq!(read(&mut disk).1, [[0], [1]], "the rest is cut off for good");
    }

    #[test]
    fn old_files_go_and_the_rest_is_read_without_them() {
        let mut disk = written(&[b"one", b"two"], 1);
        let (mut wal, _) = read(&mut disk);
        let file = wal.rotate(&mut disk).unwrap();
        wal.on_records(b"three");
        wal.write(&mut disk, Ends::default()).unwrap();
        wal.remove_before(&mut disk, file).unwrap();
        assert_eq!(disk.names(), [Name::Wal(file)]);
        assert_eq!(read(&mut disk).1, [b"three"]);
    }
}
