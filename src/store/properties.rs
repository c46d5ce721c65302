//! What must hold for any bytes on disk, as functions over bytes: `cargo test` calls them with generated input, the targets in `fuzz/`
//! with what they find. They return nothing and panic when a property fails.
//!
//! Not for use outside of tests.

use super::disk::{Disk, Name};
use super::family::{Family, Kind, Place, Survey};
use super::format::BLOCK;
use super::frame;
use super::memory::MemoryDisk;
use super::wal::{Ends, Wal};
use crate::wire::ShardId;

/// The bytes steer what is done; past their end everything is 0.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }
}

/// Damages one file: cut short, one bit flipped, bytes overwritten, or not at all. True if it did anything.
///
/// What overwrites is noise, not the script's own bytes: a fuzzer that watches comparisons writes whole headers with the right checksum, and a
/// checksum is no signature.
fn damage(script: &mut Script<'_>, file: &mut Vec<u8>) -> bool {
    if file.is_empty() {
        return false;
    }
    let at = script.number() * 17 % file.len();
    match script.byte() % 4 {
        0 => return false,
        1 => file.truncate(at),
        2 => file[at] ^= 1 << (script.byte() % 8),
        _ => {
            let len = (1 + script.number() % 4096).min(file.len() - at);
            let mut noise = fastrand::Rng::with_seed(script.number() as u64);
            let before = file[at..at + len].to_vec();
            noise.fill(&mut file[at..at + len]);
            return file[at..at + len] != before;
        }
    }
    true
}

/// Whatever happens to the newest file of the write-ahead log, what is read is a prefix of what was written; with other bytes in the place of
/// a file nothing is made up that has no checksum.
pub fn wal(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut disk = MemoryDisk::default();
    let mut wal = Wal::default();
    let mut written: Vec<Vec<u8>> = Vec::new();
    for n in 0..script.byte() % 8 {
        let mut records = Vec::new();
        let len = script.number() % 9000;
        frame::append(&mut records, ShardId(n.into()), n, |out| out.resize(out.len() + len, n));
        wal.on_records(&records);
        wal.write(&mut disk, Ends::default()).expect("the disk is good");
        written.push(records);
        if script.byte().is_multiple_of(3) {
            wal.rotate(&mut disk).expect("the disk is good");
        }
    }
    let newest = disk.names().last().copied();
    let damaged = newest.is_some_and(|it| damage(&mut script, disk.file_mut(it)));
    let mut read: Vec<Vec<u8>> = Vec::new();
    let mut after = Wal::recover(&mut disk, |_| true, |it| read.push(it.to_vec())).expect("the disk is good");
    assert!(written.starts_with(&read), "a prefix");
    assert!(damaged || read.len() == written.len(), "nothing is lost without damage");
    // And what is written after the recovery is found behind it.
    after.on_records(b"afterwards");
    after.write(&mut disk, Ends::default()).expect("the disk is good");
    read.push(b"afterwards".to_vec());
    let mut again: Vec<Vec<u8>> = Vec::new();
    Wal::recover(&mut disk, |_| true, |it| again.push(it.to_vec())).expect("the disk is good");
    assert_eq!(again, read);

    // Foreign bytes.
    disk.create(Name::Wal(1)).expect("the disk is good");
    disk.file_mut(Name::Wal(1)).extend_from_slice(bytes);
    Wal::recover(&mut disk, |_| true, |it| frame::records(it).for_each(drop)).expect("the disk is good");
}

/// Whatever happens to the newest file of blobs, what is listed is what was written, and what is read is either that or nothing.
pub fn blob(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut disk = MemoryDisk::default();
    let mut family = Family::new(Kind::Log, 3 * BLOCK as u64);
    let mut written: Vec<(Place, Vec<u8>)> = Vec::new();
    for n in 0..script.byte() % 12 {
        let blob = vec![n; script.number() % 5000];
        let place = family.append(ShardId(n.into()), n.into(), u64::from(n) + 1, 1, &blob);
        written.push((place, blob));
        if family.is_full() || script.byte().is_multiple_of(2) {
            family.flush(&mut disk).expect("the disk is good");
        }
    }
    family.flush(&mut disk).expect("the disk is good");
    for (place, blob) in &written {
        assert_eq!(family.read(&mut disk, place).expect("the disk is good").as_ref(), Some(blob));
    }
    let newest = disk.names().last().copied();
    let damaged = newest.is_some_and(|it| damage(&mut script, disk.file_mut(it)));
    let (family, listed) = recover(&mut disk);
    assert!(damaged || listed.len() == written.len(), "nothing is lost without damage");
    for place in &listed {
        let (_, blob) = written.iter().find(|it| it.0 == *place).expect("only what was written is listed");
        let read = family.read(&mut disk, place).expect("the disk is good");
        assert!(read.as_ref() == Some(blob) || damaged && read.is_none());
    }
    assert_eq!(recover(&mut disk).1, listed, "a recovered file is finished and lists the same");

    // Foreign bytes, in the place of a whole file.
    disk.create(Name::Log(1)).expect("the disk is good");
    disk.file_mut(Name::Log(1)).extend_from_slice(bytes);
    recover(&mut disk);
}

fn recover(disk: &mut MemoryDisk) -> (Family, Vec<Place>) {
    let survey = Survey::take(Kind::Log, disk).expect("the disk is good");
    let mut listed = Vec::new();
    let family = Family::recover(survey, 0, 3 * BLOCK as u64, disk, |_| true, |it| listed.push(it));
    (family.expect("the disk is good"), listed)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_damaged_write_ahead_log_yields_a_prefix(bytes in vec(any::<u8>(), 0..200)) {
            super::wal(&bytes);
        }

        #[test]
        fn a_damaged_file_of_blobs_yields_what_was_written_or_nothing(bytes in vec(any::<u8>(), 0..200)) {
            super::blob(&bytes);
        }
    }
}
