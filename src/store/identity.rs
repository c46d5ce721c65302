//! What stored sessions are bound to, and the file `identity` that says so.
//!
//! magic u32 | version u32 | salt 16 | SHA-1 of salt and token 20 | shard_count u32 | intents u64 | cache u16 | url len u32 | url | crc32.
//! The token itself is never written, and the salt is another one each time.

use std::io;

use sha1::{Digest, Sha1};

use super::disk::{Disk, Name};
use super::format::{self, Fields};

const MAGIC: u32 = u32::from_le_bytes(*b"SGid");

/// Of all formats in the folder. Another number: everything is dropped, with a line.
pub const VERSION: u32 = 3;

/// A longer URL is no identity of ours.
const URL_BYTES_MAX: usize = 2048;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 20;

/// What sessions and state belong to. With any of it changed, Discord or the clients would mean something else by them.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    pub token: String,
    pub shard_count: u32,
    pub intents: u64,
    pub api_url: String,
    /// One bit per kind of object that the cache keeps.
    pub cache: u16,
}

/// The token stays out of every log line.
impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding")
            .field("shard_count", &self.shard_count)
            .field("intents", &self.intents)
            .field("api_url", &self.api_url)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// What was found in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No store: the first start with this folder.
    Nothing,
    /// It belongs to the same bot in the same layout.
    Ours,
    /// It cannot be used; the sentence says which part differs, found and wanted.
    Foreign(String),
}

fn hash(salt: &[u8], token: &str) -> [u8; HASH_BYTES] {
    let mut hasher = Sha1::new();
    hasher.update(salt);
    hasher.update(token.as_bytes());
    hasher.finalize().into()
}

impl Binding {
    fn encode(&self, salt: [u8; SALT_BYTES]) -> Vec<u8> {
        let mut out = Vec::with_capacity(format::BLOCK);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&salt);
        out.extend_from_slice(&hash(&salt, &self.token));
        out.extend_from_slice(&self.shard_count.to_le_bytes());
        out.extend_from_slice(&self.intents.to_le_bytes());
        out.extend_from_slice(&self.cache.to_le_bytes());
        let url = &self.api_url.as_bytes()[..self.api_url.len().min(URL_BYTES_MAX)];
        out.extend_from_slice(&(url.len() as u32).to_le_bytes());
        out.extend_from_slice(url);
        let crc = format::checksum(&[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        format::pad(&mut out);
        out
    }

    /// What the bytes of an identity file say of this binding.
    fn compare(&self, bytes: &[u8]) -> Found {
        let mut fields = Fields(bytes);
        if fields.u32() != Some(MAGIC) {
            return Found::Foreign("`identity` is damaged".to_owned());
        }
        match fields.u32() {
            Some(VERSION) => self
                .compare_fields(bytes, fields)
                .unwrap_or_else(|| Found::Foreign("`identity` is damaged: its checksum does not fit".to_owned())),
            Some(version) => Found::Foreign(format!("format version: found {version}, wanted {VERSION}")),
            None => Found::Foreign("`identity` is damaged: it ends too early".to_owned()),
        }
    }

    fn compare_fields(&self, bytes: &[u8], mut fields: Fields<'_>) -> Option<Found> {
        let salt = fields.take(SALT_BYTES)?;
        let token = fields.take(HASH_BYTES)?;
        let (shard_count, intents) = (fields.u32()?, fields.u64()?);
        let cache = u16::from_le_bytes(fields.take(2)?.try_into().ok()?);
        let url_len = fields.u32()? as usize;
        if url_len > URL_BYTES_MAX {
            return None;
        }
        let url = fields.take(url_len)?;
        let len = bytes.len() - fields.0.len();
        if fields.u32()? != format::checksum(&[&bytes[..len]]) {
            return None;
        }
        let url = String::from_utf8_lossy(url);
        let foreign = |text: String| Some(Found::Foreign(text));
        if token != hash(salt, &self.token) {
            return foreign("token: found that of another bot, or an older one".to_owned());
        }
        if shard_count != self.shard_count {
            return foreign(format!("shards: found {shard_count}, wanted {}", self.shard_count));
        }
        if intents != self.intents {
            return foreign(format!("intents: found {intents}, wanted {}", self.intents));
        }
        if url != self.api_url {
            return foreign(format!("api_url: found {url}, wanted {}", self.api_url));
        }
        // What is stored and not wanted any more does no harm; what is wanted and was not stored is missing.
        if cache & self.cache != self.cache {
            return foreign(format!("cache: found flags {cache:#013b}, wanted {:#013b}", self.cache));
        }
        Some(Found::Ours)
    }

    /// Compares the folder's identity with this one.
    pub fn look(&self, disk: &mut impl Disk) -> io::Result<Found> {
        let names = disk.list()?;
        if !names.contains(&Name::Identity) {
            // Files without an identity are what a removal left behind.
            return Ok(Found::Nothing);
        }
        let mut bytes = Vec::new();
        disk.read_at(Name::Identity, 0, format::BLOCK, &mut bytes)?;
        Ok(self.compare(&bytes))
    }

    /// Writes the identity, whole or not at all.
    pub fn write(&self, disk: &mut impl Disk, salt: [u8; SALT_BYTES]) -> io::Result<()> {
        disk.create(Name::IdentityNew)?;
        disk.write_at(Name::IdentityNew, 0, &self.encode(salt))?;
        disk.sync(Name::IdentityNew)?;
        disk.rename(Name::IdentityNew, Name::Identity)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    fn binding() -> Binding {
        Binding {
            token: "a token".into(),
            shard_count: 4,
            intents: 513,
            api_url: "https://discord.com/api/v10".into(),
            cache: 0b101,
        }
    }

    fn found(stored: &Binding, wanted: &Binding) -> Found {
        let mut disk = MemoryDisk::default();
        stored.write(&mut disk, [7; SALT_BYTES]).unwrap();
        assert_eq!(disk.names(), [Name::Identity]);
        wanted.look(&mut disk).unwrap()
    }

    #[test]
    fn the_same_bot_finds_its_own() {
        assert_eq!(binding().look(&mut MemoryDisk::default()).unwrap(), Found::Nothing);
        assert_eq!(found(&binding(), &binding()), Found::Ours);
        assert_eq!(found(&binding(), &Binding { cache: 0b001, ..binding() }), Found::Ours);
    }

    #[test]
    fn each_part_that_differs_is_named_with_what_was_found_and_wanted() {
        let differs = |wanted| match found(&binding(), &wanted) {
            Found::Foreign(line) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            differs(Binding { token: "b".into(), ..binding() }),
            "token: found that of another bot, or an older one"
        );
        assert_eq!(differs(Binding { shard_count: 5, ..binding() }), "shards: found 4, wanted 5");
        assert_eq!(differs(Binding { intents: 1, ..binding() }), "intents: found 513, wanted 1");
        assert_eq!(
            differs(Binding { api_url: "http://x".into(), ..binding() }),
            "api_url: found https://discord.com/api/v10, wanted http://x"
        );
        let line = differs(Binding { cache: 0b111, ..binding() });
        assert_eq!(line, "cache: found flags 0b00000000101, wanted 0b00000000111");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = binding().encode([0; SALT_BYTES]);
        bytes[4] = 9;
        assert_eq!(binding().compare(&bytes), Found::Foreign("format version: found 9, wanted 3".into()));
    }

    #[test]
    fn the_token_is_not_in_the_file_and_no_two_files_look_alike() {
        let first = binding().encode([1; SALT_BYTES]);
        assert!(memchr::memmem::find(&first, b"a token").is_none());
        let second = binding().encode([2; SALT_BYTES]);
        assert_ne!(first[24..44], second[24..44]);
        assert!(!format!("{:?}", binding()).contains("a token"));
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let good = binding().encode([3; SALT_BYTES]);
        let len = good.iter().rposition(|it| *it != 0).unwrap() + 1;
        for at in 0..len {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert_ne!(binding().compare(&bytes), Found::Ours, "byte {at}");
        }
    }
}
