//! Whose answer is it: op 8 goes up with a nonce of ours, and its chunks come down to the client that asked.
//!
//! It keeps no members and answers nothing itself. Ops 31 and 43 have no nonce; their answers go to everybody.
//!
//! Cost: for any dispatch but the two event types, one comparison of the type. For a chunk, one pass over it and one copy.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::payload::Command;
use super::raw::RawObject;
use crate::wire::json;

/// Requests without all their chunks. When there is one more, the oldest is forgotten: what still comes of it goes to everybody.
pub const REQUESTS_MAX: usize = 1024;
/// A request is forgotten when nothing came for this long.
pub const REQUEST_QUIET_MAX: Duration = Duration::from_secs(5 * 60);
/// A longer nonce Discord drops in silence, so its answer carries none.
///
/// Source: Discord, Gateway events › Request guild members.
pub const NONCE_BYTES_MAX: usize = 32;

const PREFIX: &str = "sg";
const RADIX: u64 = 36;

/// Who gets a dispatch.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// As it is.
    Everyone,
    /// To everybody, too: the answer to a request that is not known any more. One client gets what it asked for, the others
    /// learn of members that they could have learned of anyway. To withhold it would lose a dispatch in silence.
    Stray,
    /// To this client alone, with `d` as if its own nonce had been used.
    Client { client: u64, rewritten_d: Vec<u8> },
    /// The client that asked is gone.
    Nobody,
}

/// The op 8 requests of one upstream shard.
#[derive(Debug)]
pub struct Requests {
    /// The next nonce's number. Grows, so the lowest key of `pending` is the oldest request.
    next: u64,
    pending: BTreeMap<u64, Request>,
    /// Numbers of requests that left `pending` since somebody asked.
    done: Vec<u64>,
}

#[derive(Debug)]
struct Request {
    asked: Asked,
    /// As the client wrote it, for a session that takes the place of the one that was asked. `None` when another process asked, or when this is
    /// that session already.
    d: Option<Box<str>>,
    forgotten_at: Instant,
}

/// What is known of a request: enough to go on with it in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `None` when the client is gone.
    pub client: Option<u64>,
    /// The JSON text of the client's nonce.
    pub nonce: Option<Box<str>>,
    pub chunks_received: u64,
}

impl Requests {
    /// The first number is random, so that an answer to a former process is not taken for an answer to this one.
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        Self { next: rng.u64(..1 << 40), pending: BTreeMap::new(), done: Vec::new() }
    }

    /// Notes the request that is about to be sent, and returns its `d` with our nonce. `None`, and nothing noted, if that
    /// would be longer than `d_bytes_max`: it goes up as it is then, and its answer to everybody.
    pub fn on_request(&mut self, client: u64, command: &Command, d_bytes_max: usize, now: Instant) -> Option<String> {
        let object = RawObject::parse(&command.d)?;
        let rewritten = object.with("nonce", Some(&format!("\"{}\"", nonce(self.next))));
        if rewritten.len() > d_bytes_max {
            return None;
        }
        while self.pending.first_entry().is_some_and(|it| it.get().forgotten_at <= now)
            || self.pending.len() >= REQUESTS_MAX
        {
            self.done.extend(self.pending.pop_first().map(|it| it.0));
        }
        let nonce = object.get("nonce").filter(|it| is_echoed(it)).map(Into::into);
        let asked = Asked { client: Some(client), nonce, chunks_received: 0 };
        let d = (!command.is_repeated).then(|| command.d.clone());
        let request = Request { asked, d, forgotten_at: now + REQUEST_QUIET_MAX };
        self.pending.insert(self.next, request);
        self.next += 1;
        Some(rewritten)
    }

    /// Goes on with a request of a former process.
    pub fn restore(&mut self, number: u64, asked: Asked, now: Instant) {
        self.pending.insert(number, Request { asked, d: None, forgotten_at: now + REQUEST_QUIET_MAX });
        self.next = self.next.max(number.saturating_add(1));
    }

    /// Nobody will answer what is pending: who asked for what, oldest first, as far as that is known and the client is there.
    pub fn take_unanswered(&mut self) -> Vec<(u64, Box<str>)> {
        let pending = std::mem::take(&mut self.pending);
        self.done.extend(pending.keys());
        pending.into_values().filter_map(|it| it.asked.client.zip(it.d)).collect()
    }

    /// The request noted last, with its number.
    pub fn newest(&self) -> Option<(u64, &Asked)> {
        self.pending.last_key_value().map(|(number, it)| (*number, &it.asked))
    }

    /// All requests that answers are waited for, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Asked)> {
        self.pending.iter().map(|(number, it)| (*number, &it.asked))
    }

    /// A request that is over, by number; each is said once.
    pub fn take_done(&mut self) -> Option<u64> {
        self.done.pop()
    }

    /// Says who gets the dispatch. `event_type` is `t`, `d` the JSON text of `d`.
    pub fn route(&mut self, event_type: &[u8], d: &[u8], now: Instant) -> Route {
        let route = match event_type {
            b"GUILD_MEMBERS_CHUNK" => self.route_chunk(d, now),
            b"RATE_LIMITED" => self.route_rate_limited(d, now),
            _ => None,
        };
        route.unwrap_or(Route::Everyone)
    }

    /// The client's session has ended: nobody waits for its answers.
    pub fn drop_client(&mut self, client: u64) {
        for request in self.pending.values_mut().filter(|it| it.asked.client == Some(client)) {
            request.asked.client = None;
        }
    }

    /// Requests that have not got all their chunks.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// A chunk is long and many come: it is walked once, and copied once around the nonce.
    fn route_chunk(&mut self, d: &[u8], now: Instant) -> Option<Route> {
        let (mut nonce, mut chunk_count) = (None, None);
        for member in json::members(d).ok()? {
            let member = member.ok()?;
            if json::key_is(member.key, "nonce") {
                nonce = Some(member.span.end - member.value.len()..member.span.end);
            } else if json::key_is(member.key, "chunk_count") {
                chunk_count = json::integer(member.value);
            }
        }
        let span = nonce?;
        let number = number(std::str::from_utf8(&d[span.clone()]).ok()?)?;
        let Some(request) = self.pending.get_mut(&number).filter(|it| it.forgotten_at > now) else {
            return Some(Route::Stray);
        };
        request.asked.chunks_received += 1;
        request.forgotten_at = now + REQUEST_QUIET_MAX;
        let route = match (request.asked.client, &request.asked.nonce) {
            (Some(client), Some(nonce)) => {
                let rewritten_d = [&d[..span.start], nonce.as_bytes(), &d[span.end..]].concat();
                Route::Client { client, rewritten_d }
            }
            _ => request.asked.route(&RawObject::parse(std::str::from_utf8(d).ok()?)?),
        };
        // Counted, since nobody promises that the chunk with the last index comes last.
        if chunk_count.is_some_and(|count| request.asked.chunks_received >= count) {
            self.pending.remove(&number);
            self.done.push(number);
        }
        Some(route)
    }

    /// `{"opcode":8,"retry_after":12.3,"meta":{"guild_id":"1","nonce":"sg0"}}`: no chunk will come.
    fn route_rate_limited(&mut self, d: &[u8], now: Instant) -> Option<Route> {
        let limit = RawObject::parse(std::str::from_utf8(d).ok()?)?;
        if limit.get("opcode") != Some("8") {
            return None;
        }
        let meta = RawObject::parse(limit.get("meta")?)?;
        let number = number(meta.get("nonce")?)?;
        let Some(request) = self.pending.remove(&number) else { return Some(Route::Stray) };
        self.done.push(number);
        if request.forgotten_at <= now {
            return Some(Route::Stray);
        }
        Some(match request.asked.route(&meta) {
            Route::Client { client, rewritten_d } => {
                let meta = String::from_utf8(rewritten_d).ok()?;
                Route::Client { client, rewritten_d: limit.with("meta", Some(&meta)).into_bytes() }
            }
            other => other,
        })
    }
}

impl Asked {
    /// `object` holds our nonce, and gets back the client's or loses the key.
    fn route(&self, object: &RawObject<'_>) -> Route {
        match self.client {
            Some(client) => {
                Route::Client { client, rewritten_d: object.with("nonce", self.nonce.as_deref()).into_bytes() }
            }
            None => Route::Nobody,
        }
    }
}

/// Whether Discord would send this nonce back. `raw` is its JSON text.
fn is_echoed(raw: &str) -> bool {
    match serde_json::from_str(raw) {
        Ok(serde_json::Value::String(text)) => text.len() <= NONCE_BYTES_MAX,
        Ok(serde_json::Value::Number(_)) => raw.len() <= NONCE_BYTES_MAX,
        _ => false,
    }
}

/// `sg` and the number in base 36, at most 15 bytes.
fn nonce(number: u64) -> String {
    let mut digits: Vec<char> = Vec::new();
    let mut rest = number;
    while rest > 0 || digits.is_empty() {
        let digit = (rest % RADIX) as u32;
        // `digit` is below the radix.
        digits.push(char::from_digit(digit, RADIX as u32).unwrap());
        rest /= RADIX;
    }
    PREFIX.chars().chain(digits.into_iter().rev()).collect()
}

/// The number of a nonce that we made. `raw` is its JSON text.
fn number(raw: &str) -> Option<u64> {
    let text = raw.strip_prefix('"')?.strip_suffix('"')?;
    let number = u64::from_str_radix(text.strip_prefix(PREFIX)?, RADIX as u32).ok()?;
    (nonce(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::payload::CommandOp;
    use crate::session::testing::{ms, start};

    fn request(d: &str) -> Command {
        Command::new(CommandOp::RequestGuildMembers, d)
    }

    fn requests() -> Requests {
        Requests::new(&mut fastrand::Rng::with_seed(1))
    }

    /// Sends `d` for the client, and returns the nonce that it went up with, as JSON text.
    fn ask(requests: &mut Requests, client: u64, d: &str, now: Instant) -> String {
        let sent = requests.on_request(client, &request(d), 4000, now).unwrap();
        RawObject::parse(&sent).unwrap().get("nonce").unwrap().to_owned()
    }

    fn chunk(nonce: &str, index: u64, count: u64) -> String {
        format!(r#"{{"nonce":{nonce},"members":[{{"nonce":"x"}}],"chunk_index":{index},"chunk_count":{count}}}"#)
    }

    fn route(requests: &mut Requests, d: &str, now: Instant) -> Route {
        requests.route(b"GUILD_MEMBERS_CHUNK", d.as_bytes(), now)
    }

    fn to(client: u64, d: &str) -> Route {
        Route::Client { client, rewritten_d: d.into() }
    }

    #[test]
    fn a_chunk_goes_to_the_client_that_asked_with_its_own_nonce() {
        let now = start();
        let mut requests = requests();
        let one = ask(&mut requests, 1, r#"{"guild_id":"9","query":"","nonce":"a\u0062c"}"#, now);
        let two = ask(&mut requests, 2, r#"{"guild_id":"9","query":"","nonce":"abc"}"#, now);
        assert_ne!(one, two);
        assert_eq!(route(&mut requests, &chunk(&two, 0, 1), now), to(2, &chunk(r#""abc""#, 0, 1)));
        assert_eq!(route(&mut requests, &chunk(&one, 0, 1), now), to(1, &chunk(r#""a\u0062c""#, 0, 1)));
        assert_eq!(requests.pending(), 0);
    }

    #[test]
    fn the_nonce_is_taken_out_where_the_client_sent_none_that_discord_echoes() {
        let now = start();
        let long = format!(r#"{{"query":"","nonce":"{}"}}"#, "x".repeat(33));
        for d in [r#"{"query":""}"#, r#"{"query":"","nonce":null}"#, &long] {
            let mut requests = requests();
            let nonce = ask(&mut requests, 1, d, now);
            let sent = format!(r#"{{"a":1,"nonce":{nonce},"b":2}}"#);
            assert_eq!(route(&mut requests, &sent, now), to(1, r#"{"a":1,"b":2}"#));
        }
    }

    #[test]
    fn every_chunk_of_a_request_finds_its_client_in_any_order() {
        let now = start();
        let mut requests = requests();
        let nonce = ask(&mut requests, 1, r#"{"query":"","nonce":""}"#, now);
        for index in [2, 0, 1] {
            assert_eq!(route(&mut requests, &chunk(&nonce, index, 3), now), to(1, &chunk(r#""""#, index, 3)));
        }
        assert_eq!(route(&mut requests, &chunk(&nonce, 3, 3), now), Route::Stray);
    }

    #[test]
    fn a_rate_limit_goes_to_the_client_that_met_it() {
        let now = start();
        let mut requests = requests();
        let nonce = ask(&mut requests, 1, r#"{"query":"","nonce":"n"}"#, now);
        let limit =
            |nonce: &str| format!(r#"{{"opcode":8,"retry_after":12.30,"meta":{{"guild_id":"9","nonce":{nonce}}}}}"#);
        let routed = requests.route(b"RATE_LIMITED", limit(&nonce).as_bytes(), now);
        assert_eq!((routed, requests.pending()), (to(1, &limit(r#""n""#)), 0));
    }

    #[test]
    fn what_answers_no_known_request_goes_to_everyone() {
        let now = start();
        let mut requests = requests();
        ask(&mut requests, 1, r#"{"query":""}"#, now);
        for d in [chunk(r#""sg00""#, 0, 1), chunk(r#""other""#, 0, 1), chunk("5", 0, 1), "{}".into(), "{".into()] {
            assert_eq!(route(&mut requests, &d, now), Route::Everyone);
        }
        assert_eq!(route(&mut requests, &chunk(r#""sg0""#, 0, 1), now), Route::Stray);
        assert_eq!(requests.route(b"RATE_LIMITED", br#"{"opcode":14,"meta":{}}"#, now), Route::Everyone);
        assert_eq!(requests.route(b"MESSAGE_CREATE", br#"{"nonce":"sg0"}"#, now), Route::Everyone);
    }

    #[test]
    fn another_process_goes_on_with_a_request() {
        let now = start();
        let mut requests = requests();
        let nonce = ask(&mut requests, 1, r#"{"query":"","nonce":"a"}"#, now);
        assert!(matches!(route(&mut requests, &chunk(&nonce, 0, 3), now), Route::Client { .. }));
        let (number, asked) = requests.newest().unwrap();
        assert_eq!(requests.iter().count(), 1);
        let mut other = Requests::new(&mut fastrand::Rng::with_seed(9));
        other.restore(number, asked.clone(), now);
        for index in [1, 2] {
            assert_eq!(other.take_done(), None);
            assert_eq!(route(&mut other, &chunk(&nonce, index, 3), now), to(1, &chunk(r#""a""#, index, 3)));
        }
        assert_eq!((other.take_done(), other.take_done()), (Some(number), None));
        assert_ne!(ask(&mut other, 1, r#"{"query":""}"#, now), nonce);
    }

    #[test]
    fn nobody_gets_the_answer_to_a_client_that_is_gone() {
        let now = start();
        let mut requests = requests();
        let nonce = ask(&mut requests, 1, r#"{"query":""}"#, now);
        requests.drop_client(1);
        assert_eq!(route(&mut requests, &chunk(&nonce, 0, 1), now), Route::Nobody);
    }

    #[test]
    fn a_request_is_forgotten_when_nothing_came_for_long_and_each_chunk_renews_it() {
        let now = start();
        let mut requests = requests();
        let nonce = ask(&mut requests, 1, r#"{"query":""}"#, now);
        let late = now + REQUEST_QUIET_MAX - ms(1);
        assert!(matches!(route(&mut requests, &chunk(&nonce, 0, 9), late), Route::Client { .. }));
        let later = late + REQUEST_QUIET_MAX;
        assert_eq!(route(&mut requests, &chunk(&nonce, 1, 9), later), Route::Stray);
    }

    #[test]
    fn one_request_too_many_pushes_out_the_oldest() {
        let now = start();
        let mut requests = requests();
        let nonces: Vec<_> = (0..=REQUESTS_MAX).map(|_| ask(&mut requests, 1, r#"{"query":""}"#, now)).collect();
        assert_eq!(requests.pending(), REQUESTS_MAX);
        assert_eq!(route(&mut requests, &chunk(&nonces[0], 0, 1), now), Route::Stray);
        assert!(matches!(route(&mut requests, &chunk(&nonces[1], 0, 1), now), Route::Client { .. }));
    }

    #[test]
    fn a_request_without_room_for_a_nonce_is_left_alone() {
        let now = start();
        let mut requests = requests();
        assert_eq!(requests.on_request(1, &request(r#"{"query":""}"#), 20, now), None);
        assert_eq!(requests.pending(), 0);
    }

    proptest! {
        #[test]
        fn a_nonce_is_read_back_and_is_short_enough(value in any::<u64>()) {
            prop_assert!(nonce(value).len() <= NONCE_BYTES_MAX);
            prop_assert_eq!(number(&format!("\"{}\"", nonce(value))), Some(value));
        }

        #[test]
        fn a_foreign_nonce_is_read_as_ours_only_if_we_would_write_it(text in "sg[0-9a-zA-Z+-]{0,14}") {
            if let Some(value) = number(&format!("\"{text}\"")) {
                prop_assert_eq!(nonce(value), text);
            }
        }
    }
}
