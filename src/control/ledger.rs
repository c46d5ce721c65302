//! What must outlive the process and belongs to no shard: Discord's last answer about the gateway, the count of IDENTIFYs, and what
//! each shard costs.
//!
//! Three small files in `data_dir`, `gateway`, `budget` and `loads`, each one line of heading (kind, version, checksum) and one of JSON; written
//! whole beside the old one and renamed. They survive a kill; after a power cut an unfinished one is not believed. Without
//! `data_dir` nothing is kept. Not here: what may be spent (`session::identify`), and what shards keep (their own store).

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use tracing::{info, warn};

use super::rest::{GatewayBot, SessionStartLimit};

/// The version of all formats. Another one is not read.
const VERSION: u32 = 1;
/// Two files are some 300 bytes; `loads` has 25 a shard, and there are 65,536 shards at most.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// An older answer about the gateway is not started with.
pub const GATEWAY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Discord's last answer, and what was made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptGateway {
    pub bot: GatewayBot,
    /// How many shards there were in all.
    pub shard_count: u32,
    pub age: Duration,
}

/// The count of IDENTIFYs at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub limit: SessionStartLimit,
    /// When the newest IDENTIFY was or will have been sent at the latest, since 1970; zero if none was.
    pub identified: Duration,
}

#[derive(Serialize, Deserialize)]
struct GatewayFile {
    owner: String,
    asked_ms: u64,
    url: String,
    shards: u32,
    shard_count: u32,
    limit: LimitFile,
}

#[derive(Serialize, Deserialize)]
struct BudgetFile {
    owner: String,
    written_ms: u64,
    identified_ms: u64,
    limit: LimitFile,
}

/// `loads`: shard and load, sorted.
#[derive(Serialize, Deserialize)]
struct LoadFile {
    owner: String,
    shard_count: u32,
    loads: Vec<(u32, u64)>,
}

/// `reset_after_ms` counts from the moment of writing.
#[derive(Serialize, Deserialize)]
struct LimitFile {
    total: u32,
    remaining: u32,
    reset_after_ms: u64,
    max_concurrency: u32,
}

/// The way to the files. Times are since 1970, of the wall clock.
#[derive(Debug)]
pub struct Ledger {
    dir: Option<PathBuf>,
    /// What the files are bound to: another token or another `api_url` makes them void.
    owned_by: Vec<u8>,
    salt: String,
    /// The operator has been told that writing fails.
    failing: bool,
}

impl Ledger {
    /// `salt` is random; the files hold a salted hash of the token, never the token.
    pub fn new(dir: Option<&Path>, api_url: &str, token: &str, salt: u64) -> Self {
        let owned_by = [api_url.as_bytes(), b"\0", token.as_bytes()].concat();
        Self { dir: dir.map(Path::to_owned), owned_by, salt: format!("{salt:016x}"), failing: false }
    }

    /// Discord's last answer, if it is young enough to start with.
    pub fn gateway(&self, now: Duration) -> Option<KeptGateway> {
        let file: GatewayFile = self.read("gateway")?;
        let age = now.saturating_sub(Duration::from_millis(file.asked_ms));
        if !self.owns("gateway", &file.owner) || age > GATEWAY_KEPT {
            return None;
        }
        let bot = GatewayBot { url: file.url, shards: file.shards, session_start_limit: file.limit.aged(age) };
        Some(KeptGateway { bot, shard_count: file.shard_count, age })
    }

    /// The count as it was written last, brought forward to `now`.
    pub fn budget(&self, now: Duration) -> Option<Budget> {
        let file: BudgetFile = self.read("budget")?;
        if !self.owns("budget", &file.owner) {
            return None;
        }
        let age = now.saturating_sub(Duration::from_millis(file.written_ms));
        Some(Budget { limit: file.limit.aged(age), identified: Duration::from_millis(file.identified_ms) })
    }

    pub fn keep_gateway(&mut self, bot: &GatewayBot, shard_count: u32, now: Duration) {
        let file = GatewayFile {
            owner: self.owner(),
            asked_ms: millis(now),
            url: bot.url.clone(),
            shards: bot.shards,
            shard_count,
            limit: LimitFile::of(&bot.session_start_limit),
        };
        self.write("gateway", &file);
    }

    pub fn keep_budget(&mut self, budget: &Budget, now: Duration) {
        let file = BudgetFile {
            owner: self.owner(),
            written_ms: millis(now),
            identified_ms: millis(budget.identified),
            limit: LimitFile::of(&budget.limit),
        };
        self.write("budget", &file);
    }

    /// What each shard cost of late, if the bot had as many shards then.
    pub fn loads(&self, shard_count: u32) -> HashMap<u32, u64> {
        let file: Option<LoadFile> = self.read("loads");
        let file = file.filter(|it| self.owns("loads", &it.owner) && it.shard_count == shard_count);
        file.map(|it| it.loads.into_iter().collect()).unwrap_or_default()
    }

    pub fn keep_loads(&mut self, shard_count: u32, loads: &HashMap<u32, u64>) {
        let mut loads: Vec<_> = loads.iter().map(|(shard, load)| (*shard, *load)).collect();
        loads.sort_unstable();
        let file = LoadFile { owner: self.owner(), shard_count, loads };
        self.write("loads", &file);
    }

    fn owner(&self) -> String {
        owner(&self.salt, &self.owned_by)
    }

    fn owns(&self, name: &str, found: &str) -> bool {
        let is_ours = found.split_once(':').is_some_and(|(salt, _)| owner(salt, &self.owned_by) == found);
        if !is_ours {
            info!(file = name, "what is kept there belongs to another token or api_url, and is not used");
        }
        is_ours
    }

    /// `None` without a file, or with one that is not to be believed.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.dir.as_ref()?.join(name);
        match read_file(&path).and_then(|text| decode(name, &text)) {
            Ok(value) => Some(value),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(file = %path.display(), "not used: {error}");
                None
            }
        }
    }

    fn write<T: Serialize>(&mut self, name: &str, value: &T) {
        let Some(dir) = &self.dir else { return };
        match write_file(dir, name, &encode(name, value)) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                warn!(dir = %dir.display(), file = name, "cannot be written, it is kept in memory only: {error}");
            }
            Err(_) => {}
        }
    }
}

impl LimitFile {
    fn of(limit: &SessionStartLimit) -> Self {
        Self {
            total: limit.total,
            remaining: limit.remaining,
            reset_after_ms: millis(limit.reset_after),
            max_concurrency: limit.max_concurrency,
        }
    }

    /// What holds `age` later. A reset of zero says nothing about the next one, and stays as it is.
    fn aged(&self, age: Duration) -> SessionStartLimit {
        let reset_after = Duration::from_millis(self.reset_after_ms);
        let is_over = !reset_after.is_zero() && age >= reset_after;
        SessionStartLimit {
            total: self.total,
            remaining: if is_over { self.total } else { self.remaining },
            // The next reset after that is not known: a whole day from now at the latest.
            reset_after: if is_over { Duration::ZERO } else { reset_after.saturating_sub(age) },
            max_concurrency: self.max_concurrency,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn owner(salt: &str, owned_by: &[u8]) -> String {
    let hash = Sha1::new().chain_update(salt.as_bytes()).chain_update(owned_by).finalize();
    hash.iter().fold(format!("{salt}:"), |text, byte| text + &format!("{byte:02x}"))
}

fn encode<T: Serialize>(name: &str, value: &T) -> String {
    let json = serde_json::to_string(value).expect("numbers and strings");
    format!("shardgate {name} {VERSION} {:08x}\n{json}\n", crc32fast::hash(json.as_bytes()))
}

/// The reverse of [`encode`]. Errs with what an operator may want to know.
fn decode<T: DeserializeOwned>(name: &str, text: &str) -> io::Result<T> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (head, json) = text.split_once('\n').ok_or_else(|| invalid("it has no heading".into()))?;
    let json = json.strip_suffix('\n').ok_or_else(|| invalid("it is cut".into()))?;
    let words: Vec<&str> = head.split(' ').collect();
    let ["shardgate", kind, version, crc] = words[..] else { return Err(invalid("it has no heading".into())) };
    if kind != name || version.parse() != Ok(VERSION) {
        return Err(invalid(format!("found {kind} version {version}, wanted {name} version {VERSION}")));
    }
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(json.as_bytes())) {
        return Err(invalid("its checksum is wrong".into()));
    }
    serde_json::from_str(json).map_err(|error| invalid(error.to_string()))
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Whole or not at all, also when the process is killed meanwhile.
fn write_file(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&beside, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A directory of its own that is gone with the value.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("shardgate-ledger-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn ledger(&self, api_url: &str, token: &str) -> Ledger {
            Ledger::new(Some(&self.0), api_url, token, 7)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn limit(remaining: u32) -> SessionStartLimit {
        SessionStartLimit { total: 1000, remaining, reset_after: 4 * HOUR, max_concurrency: 16 }
    }

    fn bot() -> GatewayBot {
        GatewayBot { url: "wss://gateway.invalid".into(), shards: 9, session_start_limit: limit(990) }
    }

    #[test]
    fn what_was_kept_is_read_by_the_next_process() {
        let dir = Dir::new("next");
        let mut ledger = dir.ledger("https://a", "invented");
        assert_eq!((ledger.gateway(NOW), ledger.budget(NOW)), (None, None));
        let budget = Budget { limit: limit(7), identified: NOW };
        ledger.keep_gateway(&bot(), 8, NOW);
        ledger.keep_budget(&budget, NOW);
        let next = Ledger::new(Some(&dir.0), "https://a", "invented", 99);
        assert_eq!(next.gateway(NOW), Some(KeptGateway { bot: bot(), shard_count: 8, age: Duration::ZERO }));
        assert_eq!(next.budget(NOW), Some(budget));
        let files = fs::read_dir(&dir.0).unwrap().map(|it| fs::read_to_string(it.unwrap().path()).unwrap());
        let files: Vec<String> = files.collect();
        assert!(files.len() == 2 && files.iter().all(|it| !it.contains("invented")), "{files:?}");
    }

    #[test]
    fn time_brings_the_reset_nearer_and_the_whole_budget_with_it() {
        let dir = Dir::new("time");
        let mut ledger = dir.ledger("https://a", "invented");
        ledger.keep_budget(&Budget { limit: limit(7), identified: NOW }, NOW);
        let later = |hours| ledger.budget(NOW + hours * HOUR).unwrap().limit;
        assert_eq!((later(3).remaining, later(3).reset_after), (7, HOUR));
        assert_eq!((later(4).remaining, later(4).reset_after), (1000, Duration::ZERO));
        // The wall clock was set back: nothing is won by it.
        assert_eq!(ledger.budget(NOW - HOUR).unwrap().limit, limit(7));
        let small = SessionStartLimit { reset_after: Duration::ZERO, ..limit(7) };
        ledger.keep_budget(&Budget { limit: small, identified: NOW }, NOW);
        assert_eq!(ledger.budget(NOW + 100 * HOUR).unwrap().limit.remaining, 7);
    }

    #[test]
    fn loads_are_those_of_as_many_shards() {
        let dir = Dir::new("loads");
        let mut ledger = dir.ledger("https://a", "invented");
        assert!(ledger.loads(9).is_empty());
        let loads = HashMap::from([(3, 70), (8, u64::MAX)]);
        ledger.keep_loads(9, &loads);
        assert_eq!((ledger.loads(9), ledger.loads(10).len()), (loads, 0));
        assert!(dir.ledger("https://a", "other").loads(9).is_empty());
        let all: HashMap<u32, u64> = (0..65_536).map(|shard| (shard, 10_000_000_000_000)).collect();
        ledger.keep_loads(65_536, &all);
        assert_eq!(ledger.loads(65_536).len(), all.len());
    }

    #[test]
    fn an_answer_is_started_with_for_a_day_and_no_longer() {
        let dir = Dir::new("day");
        let mut ledger = dir.ledger("https://a", "invented");
        ledger.keep_gateway(&bot(), 9, NOW);
        assert_eq!(ledger.gateway(NOW + GATEWAY_KEPT).unwrap().age, GATEWAY_KEPT);
        assert_eq!(ledger.gateway(NOW + GATEWAY_KEPT + Duration::from_millis(1)), None);
    }

    #[test]
    fn another_token_or_api_url_is_another_bot() {
        let dir = Dir::new("owner");
        let mut ledger = dir.ledger("https://a", "invented");
        ledger.keep_gateway(&bot(), 9, NOW);
        ledger.keep_budget(&Budget { limit: limit(7), identified: NOW }, NOW);
        for (api_url, token) in [("https://a", "other"), ("https://b", "invented")] {
            let other = dir.ledger(api_url, token);
            assert_eq!((other.gateway(NOW), other.budget(NOW)), (None, None), "{api_url} {token}");
        }
    }

    #[test]
    fn a_file_that_is_cut_flipped_or_of_another_version_is_not_believed() {
        let dir = Dir::new("broken");
        let mut ledger = dir.ledger("https://a", "invented");
        let budget = Budget { limit: limit(7), identified: NOW };
        ledger.keep_budget(&budget, NOW);
        let path = dir.0.join("budget");
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(ledger.budget(NOW), None, "cut to {len}");
        }
        for at in 0..whole.len() {
            for bit in [1, 0x10, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= bit;
                fs::write(&path, &flipped).unwrap();
                // The checksum's own digits may change their case.
                assert!(ledger.budget(NOW).is_none_or(|it| it == budget), "byte {at}");
            }
        }
        let text = String::from_utf8(whole).unwrap();
        let next = text.replace("budget 1 ", "budget 2 ");
        let error = decode::<BudgetFile>("budget", &next).err().unwrap();
        assert_eq!(error.to_string(), "found budget version 2, wanted budget version 1");
    }

    #[test]
    fn without_a_directory_nothing_is_kept_and_a_lost_one_is_survived() {
        let mut nowhere = Ledger::new(None, "https://a", "invented", 7);
        nowhere.keep_gateway(&bot(), 9, NOW);
        assert_eq!(nowhere.gateway(NOW), None);
        let dir = Dir::new("lost");
        let mut ledger = dir.ledger("https://a", "invented");
        fs::remove_dir_all(&dir.0).unwrap();
        ledger.keep_gateway(&bot(), 9, NOW);
        assert!(ledger.failing);
        fs::create_dir_all(&dir.0).unwrap();
        ledger.keep_gateway(&bot(), 9, NOW);
        assert!(!ledger.failing && ledger.gateway(NOW).is_some());
    }
}
