//! A client's conversation: what it may say when, and when it has been silent for too long.
//!
//! It answers nothing itself and knows no session: whether an IDENTIFY or RESUME succeeds is told to it, and WebSocket pings
//! do not reach it. Its size is fixed, since it exists for every connection before anybody has shown a token.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::payload::{self, ClientPayload, Command, Identify, Resume, Token};
use crate::wire::CloseCode;

/// What HELLO tells clients; Discord's own value.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(41_250);
/// An identified client is dead when nothing came for this long: two intervals, so that one late beat costs nothing.
pub const SILENCE_MAX: Duration = Duration::from_millis(2 * 41_250);
/// A client that has not identified is given up when nothing came for this long. A heartbeat counts, and comes within one
/// interval: libraries connect every shard at once and let each wait, beating, for its turn to IDENTIFY.
pub const IDENTIFY_MAX: Duration = Duration::from_secs(60);
/// …but not for longer than this: 225 shards at one IDENTIFY per 5 s take 19 minutes.
pub const GREETING_MAX: Duration = Duration::from_secs(30 * 60);

/// Windows follow one another, so no more than twice the limit passes in any 60 s.
pub const FLOOD_WINDOW: Duration = Duration::from_secs(60);

/// What one client may do, from the configuration. The numbers are the same for all, and guard the proxy's own time and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// TCP open to the end of the WebSocket upgrade. For whoever holds the connection before there is a `Conversation`.
    pub handshake: Duration,
    /// Payloads, pings and pongs in one `FLOOD_WINDOW`, heartbeats included; the next one closes with 4008.
    ///
    /// The default is twice what Discord grants. The budget of the shared upstream connection is kept by the command queue, not
    /// here. Libraries may count a little differently than Discord, and lose nothing by it.
    pub payloads_per_minute: u32,
    /// RESUMEs that were answered with op 9, one after the other on one connection; the next one closes with 4008.
    pub failed_resumes: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), payloads_per_minute: 240, failed_resumes: 10 }
    }
}

/// Whom the proxy lets in.
#[derive(Clone, Debug)]
pub struct Rules {
    pub token: Token,
    /// False: any token will do.
    pub validate_token: bool,
    /// The shards held by this process, of `shard_count` in all.
    pub shards: Range<u32>,
    pub shard_count: u32,
    pub limits: ClientLimits,
}

/// What a payload or a deadline asks of the caller.
#[derive(Debug, PartialEq)]
pub enum Step {
    Ignore,
    /// Send op 11.
    Ack,
    /// Token and shard are right. Answer with READY, then call `on_identified`; or with op 9, then `on_invalid_session`.
    Identify(Identify),
    /// The token is right, the session unknown to this module. Answer likewise.
    Resume(Resume),
    /// For the shard's command queue.
    Command(Command),
    /// Close with this; everything that still comes is ignored.
    Close(CloseCode, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither identified nor resumed yet, or told op 9.
    Greeting,
    /// IDENTIFY or RESUME awaits its answer. What is sent meanwhile counts as sent after it.
    Answering,
    Identified,
    Closed,
}

/// One per client connection.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    /// When `Greeting` began.
    greeting_since: Instant,
    /// When the last payload came.
    heard: Instant,
    window_began: Instant,
    window_payloads: u32,
    /// RESUMEs since the connection began or had a session.
    resumes: u32,
}

impl Conversation {
    /// `now`: the upgrade is done, and HELLO goes out. A client may have sent IDENTIFY before.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Greeting,
            greeting_since: now,
            heard: now,
            window_began: now,
            window_payloads: 0,
            resumes: 0,
        }
    }

    /// `payload` is one message, from text or binary frames.
    pub fn on_payload(&mut self, now: Instant, payload: &[u8], rules: &Rules) -> Step {
        if self.state == State::Closed {
            return Step::Ignore;
        }
        self.heard = now;
        if self.floods(now, &rules.limits) {
            return self.close(CloseCode::RATE_LIMITED, "Rate limited.");
        }
        match payload::parse(payload) {
            Ok(payload) => self.on_parsed(payload, rules),
            Err(error) => self.close(error.close_code(), error.reason()),
        }
    }

    /// A ping or pong came: no sign that the bot behind the connection lives, but counted, since it costs time as well.
    pub fn on_control_frame(&mut self, now: Instant, rules: &Rules) -> Step {
        match self.state != State::Closed && self.floods(now, &rules.limits) {
            true => self.close(CloseCode::RATE_LIMITED, "Rate limited."),
            false => Step::Ignore,
        }
    }

    /// Whether it has tried to RESUME a session that does not exist.
    pub fn guesses(&self) -> bool {
        self.resumes > 0
    }

    /// When the last payload came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The client has been sent READY or RESUMED.
    pub fn on_identified(&mut self, now: Instant) {
        if self.state != State::Closed {
            self.state = State::Identified;
            self.heard = now;
            self.resumes = 0;
        }
    }

    /// The client has been sent op 9: it may IDENTIFY or RESUME on this connection.
    pub fn on_invalid_session(&mut self, now: Instant) {
        if self.state != State::Closed {
            self.state = State::Greeting;
            self.greeting_since = now;
            self.heard = now;
        }
    }

    pub fn is_identified(&self) -> bool {
        self.state == State::Identified
    }

    /// When to call `on_timeout`; it moves with every payload. `None` once closed.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Greeting => Some((self.heard + IDENTIFY_MAX).min(self.greeting_since + GREETING_MAX)),
            State::Answering | State::Identified => Some(self.heard + SILENCE_MAX),
            State::Closed => None,
        }
    }

    /// `None` when nothing is due yet.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Step> {
        let due = self.due()?;
        (due <= now).then(|| self.close(CloseCode::SESSION_TIMED_OUT, "Session timed out."))
    }

    fn on_parsed(&mut self, payload: ClientPayload, rules: &Rules) -> Step {
        let is_greeting = self.state == State::Greeting;
        match payload {
            ClientPayload::Heartbeat => Step::Ack,
            ClientPayload::Identify(_) | ClientPayload::Resume(_) if !is_greeting => {
                self.close(CloseCode::ALREADY_AUTHENTICATED, "Already authenticated.")
            }
            ClientPayload::Identify(identify) => match rules.check_identify(&identify) {
                Ok(()) => self.answer(Step::Identify(identify)),
                Err((code, reason)) => self.close(code, reason),
            },
            ClientPayload::Resume(resume) => match rules.check_token(&resume.token) {
                Ok(()) if self.resumes >= rules.limits.failed_resumes => {
                    self.close(CloseCode::RATE_LIMITED, "Too many RESUMEs of sessions that do not exist.")
                }
                Ok(()) => {
                    self.resumes += 1;
                    self.answer(Step::Resume(resume))
                }
                Err((code, reason)) => self.close(code, reason),
            },
            ClientPayload::Command(_) | ClientPayload::VoiceServerPing if is_greeting => {
                self.close(CloseCode::NOT_AUTHENTICATED, "Not authenticated.")
            }
            ClientPayload::Command(command) => Step::Command(command),
            ClientPayload::VoiceServerPing => Step::Ignore,
        }
    }

    fn answer(&mut self, step: Step) -> Step {
        self.state = State::Answering;
        step
    }

    fn close(&mut self, code: CloseCode, reason: &'static str) -> Step {
        self.state = State::Closed;
        Step::Close(code, reason)
    }

    fn floods(&mut self, now: Instant, limits: &ClientLimits) -> bool {
        if now.saturating_duration_since(self.window_began) >= FLOOD_WINDOW {
            self.window_began = now;
            self.window_payloads = 0;
        }
        self.window_payloads += 1;
        self.window_payloads > limits.payloads_per_minute
    }
}

impl Rules {
    fn check_identify(&self, identify: &Identify) -> Result<(), (CloseCode, &'static str)> {
        self.check_token(&identify.token)?;
        let [shard, count] = identify.shard_or_default();
        if count != self.shard_count {
            return Err((CloseCode::INVALID_SHARD, "Invalid shard: the proxy has another number of shards."));
        }
        if !self.shards.contains(&shard) {
            return Err((CloseCode::INVALID_SHARD, "Invalid shard: the proxy does not hold it."));
        }
        Ok(())
    }

    /// In constant time for tokens of one length.
    fn check_token(&self, token: &Token) -> Result<(), (CloseCode, &'static str)> {
        let is_right: bool = bare(token).as_bytes().ct_eq(bare(&self.token).as_bytes()).into();
        match is_right || !self.validate_token {
            true => Ok(()),
            false => Err((CloseCode::AUTHENTICATION_FAILED, "Authentication failed.")),
        }
    }
}

/// The token without the prefix that half of the libraries send.
fn bare(token: &Token) -> &str {
    token.0.strip_prefix("Bot ").unwrap_or(&token.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{ms, secs, start};

    const IDENTIFY: &[u8] = br#"{"op":2,"d":{"token":"Bot abc","intents":1,"shard":[2,4]}}"#;
    const RESUME: &[u8] = br#"{"op":6,"d":{"token":"abc","session_id":"0a","seq":3}}"#;
    const HEARTBEAT: &[u8] = br#"{"op":1,"d":null}"#;
    const COMMAND: &[u8] = br#"{"op":4,"d":{"guild_id":"1","channel_id":null}}"#;

    fn rules() -> Rules {
        let limits = ClientLimits::default();
        Rules { token: Token("abc".into()), validate_token: true, shards: 1..3, shard_count: 4, limits }
    }

    fn identified(now: Instant) -> Conversation {
        let mut client = Conversation::new(now);
        assert!(matches!(client.on_payload(now, IDENTIFY, &rules()), Step::Identify(_)));
        client.on_identified(now);
        client
    }

    fn code(step: Step) -> u16 {
        match step {
            Step::Close(code, _) => code.0,
            other => panic!("{other:?}"),
        }
    }

    /// The close code that a fresh connection gets for an IDENTIFY with this `d`.
    fn refusal(d: &str, rules: &Rules) -> u16 {
        let now = start();
        code(Conversation::new(now).on_payload(now, format!(r#"{{"op":2,"d":{d}}}"#).as_bytes(), rules))
    }

    #[test]
    fn heartbeats_are_answered_before_identify_and_after() {
        let now = start();
        assert_eq!(Conversation::new(now).on_payload(now, HEARTBEAT, &rules()), Step::Ack);
        assert_eq!(identified(now).on_payload(now, HEARTBEAT, &rules()), Step::Ack);
    }

    #[test]
    fn a_command_before_identify_is_4003() {
        let now = start();
        assert_eq!(code(Conversation::new(now).on_payload(now, COMMAND, &rules())), 4003);
        assert_eq!(code(Conversation::new(now).on_payload(now, br#"{"op":5,"d":null}"#, &rules())), 4003);
    }

    #[test]
    fn a_command_after_identify_passes_even_before_ready() {
        let now = start();
        let mut client = Conversation::new(now);
        client.on_payload(now, IDENTIFY, &rules());
        assert!(matches!(client.on_payload(now, COMMAND, &rules()), Step::Command(_)));
    }

    #[test]
    fn a_second_identify_or_resume_is_4005() {
        let now = start();
        for again in [IDENTIFY, RESUME] {
            assert_eq!(code(identified(now).on_payload(now, again, &rules())), 4005);
            let mut unanswered = Conversation::new(now);
            unanswered.on_payload(now, RESUME, &rules());
            assert_eq!(code(unanswered.on_payload(now, again, &rules())), 4005);
        }
    }

    #[test]
    fn after_op_9_both_identify_and_resume_are_taken_on_the_same_connection() {
        let now = start();
        for again in [IDENTIFY, RESUME] {
            let mut client = Conversation::new(now);
            client.on_payload(now, RESUME, &rules());
            client.on_invalid_session(now);
            assert!(matches!(client.on_payload(now, again, &rules()), Step::Identify(_) | Step::Resume(_)));
        }
    }

    #[test]
    fn a_wrong_token_is_4004_in_identify_and_resume() {
        let now = start();
        for token in ["abd", "ab", "", "Bot ", "bot abc", "Bot Bot abc"] {
            let identify = format!(r#"{{"token":"{token}","intents":1,"shard":[2,4]}}"#);
            assert_eq!(refusal(&identify, &rules()), 4004, "{token}");
            let resume = format!(r#"{{"op":6,"d":{{"token":"{token}","session_id":"0a","seq":3}}}}"#);
            assert_eq!(code(Conversation::new(now).on_payload(now, resume.as_bytes(), &rules())), 4004, "{token}");
        }
    }

    #[test]
    fn any_token_will_do_when_tokens_are_not_validated() {
        let now = start();
        let rules = Rules { validate_token: false, ..rules() };
        let other = br#"{"op":6,"d":{"token":"x","session_id":"0a","seq":3}}"#;
        assert!(matches!(Conversation::new(now).on_payload(now, other, &rules), Step::Resume(_)));
    }

    #[test]
    fn a_shard_that_is_not_held_or_of_another_count_is_4010() {
        for shard in ["[0,4]", "[3,4]", "[4,4]", "[2,5]", "[-1,4]", "null"] {
            let identify = format!(r#"{{"token":"abc","intents":1,"shard":{shard}}}"#);
            assert_eq!(refusal(&identify, &rules()), 4010, "{shard}");
        }
    }

    #[test]
    fn a_missing_shard_is_the_only_one_where_there_is_one() {
        let now = start();
        let rules = Rules { shards: 0..1, shard_count: 1, ..rules() };
        let step = Conversation::new(now).on_payload(now, br#"{"op":2,"d":{"token":"abc","intents":1}}"#, &rules);
        assert!(matches!(step, Step::Identify(Identify { shard: None, .. })));
    }

    #[test]
    fn nothing_is_heard_after_a_close() {
        let now = start();
        let mut client = Conversation::new(now);
        client.on_payload(now, b"{", &rules());
        assert_eq!(client.on_payload(now, IDENTIFY, &rules()), Step::Ignore);
        client.on_identified(now);
        assert_eq!((client.is_identified(), client.due(), client.on_timeout(now + secs(3600))), (false, None, None));
    }

    #[test]
    fn a_client_that_says_nothing_is_given_up() {
        let now = start();
        let mut client = Conversation::new(now);
        assert_eq!(client.on_timeout(now + IDENTIFY_MAX - ms(1)), None);
        assert_eq!(code(client.on_timeout(now + IDENTIFY_MAX).unwrap()), 4009);
    }

    #[test]
    fn a_client_may_wait_for_its_turn_while_it_beats_but_not_for_ever() {
        let begin = start();
        let mut now = begin;
        let mut client = Conversation::new(now);
        while now - begin < GREETING_MAX - HEARTBEAT_INTERVAL {
            now += HEARTBEAT_INTERVAL;
            assert_eq!(client.on_timeout(now), None);
            client.on_payload(now, HEARTBEAT, &rules());
        }
        assert_eq!(client.due(), Some(begin + GREETING_MAX));
    }

    #[test]
    fn an_identified_client_is_closed_resumably_after_two_silent_intervals() {
        let now = start();
        let mut client = identified(now);
        client.on_payload(now + secs(1), HEARTBEAT, &rules());
        assert_eq!(client.due(), Some(now + secs(1) + 2 * HEARTBEAT_INTERVAL));
        assert_eq!(code(client.on_timeout(client.due().unwrap()).unwrap()), 4009);
    }

    #[test]
    fn a_flood_of_anything_is_4008() {
        let now = start();
        let mut client = identified(now);
        for _ in 1..rules().limits.payloads_per_minute {
            assert_eq!(client.on_payload(now, HEARTBEAT, &rules()), Step::Ack);
        }
        assert_eq!(code(client.on_payload(now + secs(59), HEARTBEAT, &rules())), 4008);
    }

    #[test]
    fn pings_and_pongs_flood_like_payloads_and_are_no_sign_of_life() {
        let now = start();
        let mut client = identified(now);
        let due = client.due();
        for _ in 1..rules().limits.payloads_per_minute {
            assert_eq!(client.on_control_frame(now + secs(1), &rules()), Step::Ignore);
        }
        assert_eq!(client.due(), due);
        assert_eq!(code(client.on_control_frame(now + secs(1), &rules())), 4008);
        assert_eq!(client.on_control_frame(now + secs(1), &rules()), Step::Ignore);
    }

    #[test]
    fn guessing_sessions_on_one_connection_ends_it() {
        let now = start();
        let mut client = Conversation::new(now);
        for _ in 0..rules().limits.failed_resumes {
            assert!(matches!(client.on_payload(now, RESUME, &rules()), Step::Resume(_)));
            client.on_invalid_session(now);
        }
        assert_eq!(code(client.on_payload(now, RESUME, &rules())), 4008);
        // A session that was had in between begins the count anew, and IDENTIFY is always heard.
        let mut client = Conversation::new(now);
        for _ in 0..2 * rules().limits.failed_resumes {
            client.on_payload(now, RESUME, &rules());
            client.on_identified(now);
            client.on_invalid_session(now);
        }
        assert!(matches!(client.on_payload(now, IDENTIFY, &rules()), Step::Identify(_)));
    }

    #[test]
    fn discords_own_rate_is_never_a_flood() {
        let now = start();
        let mut client = identified(now);
        for payload in 0..1200 {
            assert_eq!(client.on_payload(now + ms(500) * payload, HEARTBEAT, &rules()), Step::Ack);
        }
    }
}
