//! The points at which a crash would show, one by one.

use crate::cache::Shapes;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::stage::settings;
use crate::session::payload::{self, ClientPayload, Identify, Resume, Token};
use crate::shard::epoch::GUILDS_SILENCE_MAX;
use crate::shard::seat::{Pumped, SeatKey};
use crate::shard::{Action, ResumeRefused, Shard, ShardSettings};
use crate::store::StateBlob;
use crate::wire::{CloseCode, Compression, Deframer, Encoder, Message, Role};

const READY: &str = r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"a","resume_gateway_url":"ws://resume.invalid","user":{"id":"1"},"guilds":[{"id":"10"}]}}"#;
const FORGOTTEN: &str = r#"{"t":null,"s":null,"op":9,"d":false}"#;
const GUILD: &str = r#"{"t":"GUILD_CREATE","s":2,"op":0,"d":{"id":"10","unavailable":false,"name":"old"}}"#;

/// A shard with a disk, live, with READY and one guild.
struct Point {
    now: Instant,
    shard: Shard,
    disk: Disk,
}

impl Point {
    fn new() -> Self {
        Self::with_ready(READY)
    }

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    fn with_ready(ready: &str) -> Self {
        let now = Instant::now();
        let mut shard = Shard::new(settings(), Shapes::default(), 1, now);
        shard.begin_journal();
        let mut point = Self { now, shard, disk: Disk::default() };
        point.connect();
        point.say(ready);
        point.say(GUILD);
        point.write();
        point
    }

    /// Up to HELLO's answer. Returns where to, and what was sent.
    fn connect(&mut self) -> (String, String) {
        self.now = self.shard.due().map_or(self.now, |due| self.now.max(due));
        self.shard.on_timeout(self.now);
        self.shard.on_turn(self.now, self.now);
        let url =
            self.actions().into_iter().find_map(|it| if let Action::Connect(url) = it { Some(url) } else { None });
        self.shard.on_open(self.now);
        self.say(super::discord::HELLO);
        let sent =
            self.actions().into_iter().find_map(|it| if let Action::Send(sent) = it { Some(sent) } else { None });
        (url.unwrap(), String::from_utf8(sent.unwrap()).unwrap())
    }

    fn say(&mut self, payload: &str) {
        self.shard.on_payload(self.now, payload.as_bytes()).unwrap();
    }

    /// Discord forgets the session, and IDENTIFY is sent.
    fn forget(&mut self) {
        self.say(FORGOTTEN);
        self.actions();
        self.connect();
    }

    fn wants_to_identify(&mut self) -> bool {
        std::iter::from_fn(|| self.shard.poll(self.now)).any(|it| it == Action::IdentifyWanted)
    }

    fn message(&mut self, s: u64) {
        self.say(&format!(r#"{{"t":"MESSAGE_CREATE","s":{s},"op":0,"d":{{"n":{s}}}}}"#));
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.shard.poll(self.now))
            .filter(|it| !matches!(it, Action::IdentifyWanted | Action::IdentifyReturned | Action::IdentifySent))
            .collect()
    }

    fn write(&mut self) {
        self.disk.take(&mut self.shard, self.now, 0);
        self.disk.write(&mut self.shard, usize::MAX);
    }

    /// The process dies; what was not written is gone. The state comes back at once.
    fn crash(self) -> Self {
        let (mut point, states) = self.crash_before_its_state();
        point.restore(&states);
        point
    }

    /// The process dies, and its state is yet to come back.
    fn crash_before_its_state(self) -> (Self, Vec<StateBlob>) {
        self.crash_into(settings())
    }

    /// The process dies, and comes back with these settings.
    fn crash_into(mut self, settings: ShardSettings) -> (Self, Vec<StateBlob>) {
        self.disk.keep_written();
        let (recovered, states) = self.disk.recover();
        self.shard = Shard::restore(settings, Shapes::default(), &recovered, 2, self.now);
        (self, states)
    }

    /// The process dies, and comes back with `status` as the operator's presence.
    fn crash_into_status(self, status: &str) -> Self {
        let mut settings = settings();
        settings.upstream.presence = Some(presence(status));
        let (mut point, states) = self.crash_into(settings);
        point.restore(&states);
        point
    }

    /// RESUMEs as number `s`. Returns the op 3 that follow.
    fn presences_after_resumed(&mut self, s: u64) -> Vec<String> {
        let (_, sent) = self.connect();
        assert!(sent.contains(r#""op":6"#), "{sent}");
        assert_eq!(self.actions(), [], "nothing goes up before RESUMED");
        self.say(&format!(r#"{{"t":"RESUMED","s":{s},"op":0,"d":{{}}}}"#));
        self.presences()
    }

    fn presences(&mut self) -> Vec<String> {
        let sent = self.actions().into_iter().map(|it| match it {
            Action::Send(payload) => String::from_utf8(payload).unwrap(),
            other => panic!("{other:?}"),
        });
        sent.inspect(|payload| assert!(payload.starts_with(r#"{"op":3,"#), "{payload}")).collect()
    }

    fn restore(&mut self, states: &[StateBlob]) {
        states.iter().for_each(|it| self.shard.on_state(it));
        self.shard.on_state_complete(self.now);
    }

    fn identify(&mut self) -> Peer {
        let identify = Identify { token: Token("secret".to_owned()), shard: None, intents: 1, compress: false };
        Peer::on(self.shard.identify(&identify, [7; 12]).unwrap())
    }

    fn resume(&mut self, session_id: &str, seq: u64) -> Result<Peer, ResumeRefused> {
        let resume = Resume { token: Token("secret".to_owned()), session_id: session_id.to_owned(), seq };
        self.shard.resume(self.now, &resume).map(Peer::on)
    }

    fn ask(&mut self, key: SeatKey) {
        let request = br#"{"op":8,"d":{"guild_id":"10","query":"","limit":0,"nonce":"n"}}"#;
        let Ok(ClientPayload::Command(command)) = payload::parse(request) else { panic!() };
        self.shard.on_command(self.now, key, command).unwrap();
    }
}

struct Peer {
    key: SeatKey,
    encoder: Encoder,
    deframer: Deframer,
}

impl Peer {
    fn on(key: SeatKey) -> Self {
        Self { key, encoder: Encoder::new(Compression::None), deframer: Deframer::new(Role::Client, 1 << 24) }
    }

    fn pump(&mut self, point: &mut Point) -> Vec<String> {
        let (mut bytes, mut got) = (Vec::new(), Vec::new());
        point.shard.pump(self.key, &mut self.encoder, &mut bytes, usize::MAX / 2);
        let mut rest = &bytes[..];
        while let Some(Message::Text(payload)) = self.deframer.next(&mut rest).unwrap() {
            let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
            got.push(format!("{} {}", value["s"], value["t"].as_str().unwrap()));
        }
        got
    }
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_client_hears_of_its_session_when_the_store_knows_it() {
    let mut point = Point::new();
    let mut peer = point.identify();
    assert_eq!(peer.pump(&mut point), nothing());
    assert!(point.shard.journal().unwrap().urgent);
    point.write();
    assert_eq!(peer.pump(&mut point), ["1 READY", "2 GUILD_CREATE"]);
}

#[test]
fn a_replay_begins_when_the_store_knows_of_the_resume() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.message(3);
    point.shard.leave(point.now, peer.key, false);
    let mut peer = point.resume(&session, 2).unwrap();
    assert_eq!(peer.pump(&mut point), nothing());
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 MESSAGE_CREATE", "4 RESUMED"]);
}

#[test]
fn a_request_goes_up_when_the_store_knows_whose_it_is_and_its_chunks_find_the_client_after_a_crash() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.ask(peer.key);
    assert_eq!(point.actions(), []);
    point.write();
    let sent = point.actions();
    let [Action::Send(sent)] = &sent[..] else { panic!("{sent:?}") };
    let nonce = serde_json::from_slice::<serde_json::Value>(sent).unwrap()["d"]["nonce"].clone();
    let chunk =
        format!(r#"{{"t":"GUILD_MEMBERS_CHUNK","s":3,"op":0,"d":{{"members":[],"chunk_count":1,"nonce":{nonce}}}}}"#);
    point.say(&chunk);
    assert_eq!(peer.pump(&mut point), ["3 GUILD_MEMBERS_CHUNK"]);
    let mut other = point.identify();
    let mut point = point.crash();
    point.connect();
    point.say(&chunk);
    let mut peer = point.resume(&session, 2).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 GUILD_MEMBERS_CHUNK", "4 RESUMED"]);
    assert_eq!(other.pump(&mut point), nothing());
}

#[test]
fn an_identify_goes_up_when_all_of_the_forgotten_session_is_written() {
    let mut point = Point::new();
    point.message(3);
    point.say(FORGOTTEN);
    point.now = point.shard.due().unwrap();
    point.shard.on_timeout(point.now);
    assert!(!point.wants_to_identify() && point.shard.journal().unwrap().urgent);
    point.write();
    assert!(point.wants_to_identify() && !point.wants_to_identify());
}

fn presence(status: &str) -> String {
    format!(r#"{{"since":null,"activities":[],"status":"{status}","afk":false}}"#)
}

#[test]
fn a_presence_that_changed_while_the_process_was_away_is_told_once_and_after_resumed() {
    let mut point = Point::new().crash_into_status("idle");
    assert_eq!(point.presences_after_resumed(3), [format!(r#"{{"op":3,"d":{}}}"#, presence("idle"))]);
    point.write();
    let mut point = point.crash_into_status("idle");
    assert_eq!(point.presences_after_resumed(4), nothing());
    point.write();
    // Of what was not sent before the next crash nothing is written.
    let mut point = point.crash_into_status("dnd");
    point.write();
    let mut point = point.crash_into_status("dnd");
    assert_eq!(point.presences_after_resumed(5), [format!(r#"{{"op":3,"d":{}}}"#, presence("dnd"))]);
}

#[test]
fn a_presence_that_a_client_set_stays_over_a_crash_if_the_operators_is_the_same() {
    let mut point = Point::new().crash_into_status("idle");
    let mut peer = point.identify();
    peer.pump(&mut point);
    let op_3 = format!(r#"{{"op":3,"d":{}}}"#, presence("invisible"));
    let Ok(ClientPayload::Command(command)) = payload::parse(op_3.as_bytes()) else { panic!() };
    point.shard.on_command(point.now, peer.key, command).unwrap();
    // It came after the operator's, which was waiting, and took its place.
    assert_eq!(point.presences_after_resumed(3), [op_3]);
    point.write();
    let mut point = point.crash_into_status("idle");
    assert_eq!(point.presences_after_resumed(4), nothing());
}

#[test]
fn a_presence_that_identify_carried_is_not_told_again() {
    let mut point = Point::new().crash_into_status("idle");
    point.connect();
    point.forget();
    point.say(&READY.replace(r#""session_id":"a""#, r#""session_id":"b""#));
    point.presences();
    point.say(GUILD);
    point.write();
    let mut point = point.crash_into_status("idle");
    assert_eq!(point.presences_after_resumed(3), nothing());
}

#[test]
fn the_first_connection_after_a_crash_is_a_resume_from_what_is_written() {
    let mut point = Point::new();
    point.message(3);
    point.write();
    point.message(4);
    let mut point = point.crash();
    let (url, sent) = point.connect();
    assert!(url.starts_with("ws://resume.invalid/"), "{url}");
    assert!(sent.contains(r#""op":6"#) && sent.contains(r#""seq":3"#), "{sent}");
}

#[test]
fn without_a_resume_url_the_main_host_is_resumed_at() {
    let ready = READY.replace(r#""resume_gateway_url":"ws://resume.invalid","#, "");
    let mut point = Point::with_ready(&ready).crash();
    let (url, sent) = point.connect();
    assert!(url.starts_with("ws://gateway.invalid/") && sent.contains(r#""op":6"#), "{url} {sent}");
}

#[test]
fn a_heartbeat_acknowledges_what_is_written_and_no_more() {
    let mut point = Point::new();
    point.message(3);
    point.say(r#"{"t":null,"s":null,"op":1,"d":null}"#);
    assert_eq!(point.actions(), [Action::Send(br#"{"op":1,"d":2}"#.to_vec())]);
    point.write();
    point.say(r#"{"t":null,"s":null,"op":1,"d":null}"#);
    assert_eq!(point.actions(), [Action::Send(br#"{"op":1,"d":3}"#.to_vec())]);
}

/// A client that got three messages, of which the disk has one, after the crash.
fn ahead_of_the_disk() -> (Point, String) {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.message(3);
    point.write();
    point.message(4);
    point.message(5);
    assert_eq!(peer.pump(&mut point).len(), 5);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    let mut point = point.crash();
    point.connect();
    (point, session)
}

#[test]
fn who_is_ahead_of_the_disk_waits_until_discord_has_replayed_that_far() {
    let (mut point, session) = ahead_of_the_disk();
    let mut peer = point.resume(&session, 5).unwrap();
    assert_eq!(peer.pump(&mut point), nothing());
    point.message(4);
    point.write();
    assert_eq!(peer.pump(&mut point), nothing());
    point.message(5);
    point.message(6);
    peer.pump(&mut point);
    point.write();
    // RESUMED closes what was there when the number was found.
    assert_eq!(peer.pump(&mut point), ["6 MESSAGE_CREATE", "7 RESUMED"]);
    assert_eq!(point.resume(&session, 99).err(), Some(ResumeRefused::InvalidSeq));
}

#[test]
fn who_is_ahead_of_a_session_that_discord_forgot_is_refused_and_who_is_not_goes_on() {
    for (seq, is_known) in [(5, false), (3, true)] {
        let (mut point, session) = ahead_of_the_disk();
        let mut peer = point.resume(&session, seq).unwrap();
        point.write();
        peer.pump(&mut point);
        point.say(r#"{"t":null,"s":null,"op":9,"d":false}"#);
        point.actions();
        point.connect();
        point.say(&READY.replace(r#""a""#, r#""b""#));
        point.say(GUILD);
        point.message(3);
        point.message(4);
        point.message(5);
        point.write();
        let got = peer.pump(&mut point);
        let refused = point.actions().contains(&Action::InvalidSession(peer.key));
        assert_eq!(refused, !is_known, "{seq}: {got:?}");
        assert_eq!(got.is_empty(), !is_known, "{seq}: {got:?}");
    }
}

#[test]
fn who_got_a_replay_to_its_end_but_not_resumed_gets_that() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.message(3);
    point.shard.leave(point.now, peer.key, false);
    let mut peer = point.resume(&session, 2).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 MESSAGE_CREATE", "4 RESUMED"]);
    // Of what was sent the last frame did not arrive.
    let mut point = point.crash();
    let mut peer = point.resume(&session, 3).unwrap();
    peer.pump(&mut point);
    point.write();
    assert_eq!(peer.pump(&mut point), ["4 RESUMED"]);
}

#[test]
fn a_number_that_never_comes_again_is_given_up() {
    let (mut point, session) = ahead_of_the_disk();
    let peer = point.resume(&session, 50).unwrap();
    point.now += Duration::from_secs(60);
    point.shard.on_timeout(point.now);
    assert!(point.actions().contains(&Action::InvalidSession(peer.key)));
}

#[test]
fn inside_its_snapshot_nobody_resumes_and_behind_it_everybody_does() {
    for (seq, is_right) in [(0, false), (1, false), (2, true)] {
        let mut point = Point::new();
        let peer = point.identify();
        point.write();
        // The process dies in the middle of the snapshot: how much the client got only the client knows.
        let session = point.shard.session_id(peer.key).unwrap().to_owned();
        let mut point = point.crash();
        assert_eq!(point.resume(&session, seq).is_ok(), is_right, "{seq}");
    }
}

#[test]
fn a_ready_that_the_disk_has_not_got_is_seen_by_nobody() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    point.forget();
    point.say(&READY.replace(r#"[{"id":"10"}]"#, "[]").replace(r#""a""#, r#""b""#));
    point.message(2);
    assert_eq!(peer.pump(&mut point), nothing());
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 GUILD_DELETE", "4 MESSAGE_CREATE"]);
    let mut point = point.crash();
    let (_, sent) = point.connect();
    assert!(sent.contains(r#""session_id":"b""#) && sent.contains(r#""seq":2"#), "{sent}");
}

#[test]
fn a_crash_between_ready_and_the_guild_stream_waits_for_the_rest_of_it() {
    let mut point = Point::new();
    point.forget();
    point.say(&READY.replace(r#""a""#, r#""b""#));
    point.write();
    let mut point = point.crash();
    point.connect();
    let mut peer = point.identify();
    point.write();
    assert_eq!(peer.pump(&mut point), nothing());
    point.say(GUILD);
    point.write();
    assert_eq!(peer.pump(&mut point), nothing(), "RESUMED has not come");
    point.say(r#"{"t":"RESUMED","s":3,"op":0,"d":{}}"#);
    point.shard.on_timeout(point.now + GUILDS_SILENCE_MAX);
    point.write();
    assert_eq!(peer.pump(&mut point), ["1 READY", "2 GUILD_CREATE"]);
}

#[test]
fn a_guild_of_ready_that_comes_before_the_state_is_back_comes_behind_an_outage() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.forget();
    point.say(&READY.replace(r#""a""#, r#""b""#));
    point.write();
    let (mut point, _) = point.crash_before_its_state();
    point.connect();
    let mut peer = point.resume(&session, 2).unwrap();
    point.say(&GUILD.replace("old", "new"));
    assert_eq!(peer.pump(&mut point), nothing());
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 RESUMED", "4 GUILD_DELETE", "5 GUILD_CREATE"]);
    // The process dies again: what was decided stays decided, and the state says the same.
    let mut point = point.crash();
    point.connect();
    point.message(3);
    let mut peer = point.resume(&session, 5).unwrap();
    let mut other = point.identify();
    point.say(r#"{"t":"RESUMED","s":4,"op":0,"d":{}}"#);
    assert_eq!(peer.pump(&mut point), nothing(), "it is looked for, and noted");
    point.write();
    assert_eq!(peer.pump(&mut point), ["6 MESSAGE_CREATE", "7 RESUMED"]);
    assert_eq!(other.pump(&mut point), ["1 READY", "2 GUILD_CREATE"]);
}

#[test]
fn a_guild_of_ready_that_nobody_has_takes_one_number_whether_the_state_is_back_or_not() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.forget();
    point.say(&READY.replace(r#""a""#, r#""b""#).replace(r#"[{"id":"10"}]"#, r#"[{"id":"10"},{"id":"11"}]"#));
    point.write();
    let joined = GUILD.replace(r#""10""#, r#""11""#);
    point.say(&joined);
    assert_eq!(peer.pump(&mut point), ["3 GUILD_CREATE"]);
    let (mut point, _) = point.crash_before_its_state();
    point.connect();
    let mut peer = point.resume(&session, 3).unwrap();
    point.say(&joined);
    point.message(3);
    peer.pump(&mut point);
    point.write();
    assert_eq!(peer.pump(&mut point), ["4 MESSAGE_CREATE", "5 RESUMED"]);
}

/// A client that has guild 10 and knows of an outage of 12, and behind it a READY with both and a new one, 11, of which none has come.
fn with_a_guild_that_only_ready_names() -> (Point, Peer, String) {
    let mut point = Point::new();
    point.say(&GUILD.replace(r#""s":2"#, r#""s":3"#).replace(r#""10""#, r#""12""#));
    point.say(r#"{"t":"GUILD_DELETE","s":4,"op":0,"d":{"id":"12","unavailable":true}}"#);
    let mut peer = point.identify();
    point.write();
    assert_eq!(peer.pump(&mut point), ["1 READY", "2 GUILD_CREATE", "3 GUILD_DELETE"]);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.forget();
    let guilds = r#"[{"id":"10"},{"id":"11"},{"id":"12"}]"#;
    point.say(&READY.replace(r#""a""#, r#""b""#).replace(r#"[{"id":"10"}]"#, guilds));
    point.write();
    (point, peer, session)
}

/// Discord forgets the session again, and the next has guild 10 alone.
fn forget_all_but_one(point: &mut Point) {
    point.forget();
    point.say(&READY.replace(r#""a""#, r#""c""#));
    point.say(GUILD);
    point.message(3);
    point.write();
}

#[test]
fn a_guild_that_only_a_ready_named_goes_without_a_word() {
    let (mut point, mut peer, _) = with_a_guild_that_only_ready_names();
    forget_all_but_one(&mut point);
    assert_eq!(peer.pump(&mut point), ["4 GUILD_DELETE", "5 MESSAGE_CREATE"], "12 alone has gone");
    let mut point = point.crash();
    point.connect();
    point.say(r#"{"t":"RESUMED","s":4,"op":0,"d":{}}"#);
    let mut other = point.identify();
    point.write();
    assert_eq!(other.pump(&mut point), ["1 READY", "2 GUILD_CREATE"], "the state has only 10");
}

#[test]
fn a_guild_that_only_a_ready_named_goes_without_a_word_after_a_crash() {
    let (point, _, session) = with_a_guild_that_only_ready_names();
    let mut point = point.crash();
    point.connect();
    let mut peer = point.resume(&session, 3).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["4 RESUMED"]);
    forget_all_but_one(&mut point);
    assert_eq!(peer.pump(&mut point), ["5 GUILD_DELETE", "6 MESSAGE_CREATE"], "12 alone has gone");
}

#[test]
fn a_new_guild_that_did_not_come_is_known_to_who_identified_later_and_goes_with_a_word() {
    let (mut point, former, _) = with_a_guild_that_only_ready_names();
    point.shard.leave(point.now, former.key, true);
    point.say(GUILD);
    point.now += GUILDS_SILENCE_MAX;
    point.shard.on_timeout(point.now);
    let mut peer = point.identify();
    point.write();
    assert_eq!(peer.pump(&mut point), ["1 READY", "2 GUILD_CREATE", "3 GUILD_DELETE", "4 GUILD_DELETE"]);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    let mut point = point.crash();
    point.connect();
    let mut peer = point.resume(&session, 4).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["5 RESUMED"]);
    forget_all_but_one(&mut point);
    assert_eq!(peer.pump(&mut point), ["6 GUILD_DELETE", "7 GUILD_DELETE", "8 MESSAGE_CREATE"]);
}

#[test]
fn who_must_identify_after_a_crash_waits_for_the_state_so_that_clients_can_stay() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    let (mut point, states) = point.crash_before_its_state();
    point.connect();
    let mut peer = point.resume(&session, 2).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 RESUMED"]);
    point.say(FORGOTTEN);
    point.now = point.shard.due().unwrap();
    point.shard.on_timeout(point.now);
    assert!(!point.wants_to_identify(), "the state is not back");
    point.restore(&states);
    assert!(point.wants_to_identify());
    point.connect();
    point.say(&READY.replace(r#""a""#, r#""b""#).replace(r#"[{"id":"10"}]"#, "[]"));
    point.message(2);
    point.write();
    assert_eq!(peer.pump(&mut point), ["4 GUILD_DELETE", "5 MESSAGE_CREATE"]);
}

#[test]
fn who_must_identify_does_not_wait_for_ever_for_the_state() {
    let point = Point::new();
    let (mut point, _) = point.crash_before_its_state();
    point.connect();
    point.say(FORGOTTEN);
    point.now = point.shard.due().unwrap();
    point.shard.on_timeout(point.now);
    assert!(!point.wants_to_identify());
    point.now = point.shard.due().unwrap();
    assert!(point.wants_to_identify());
}

#[test]
fn who_lags_behind_memory_is_served_from_the_store() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    for s in 3..9 {
        point.message(s);
    }
    point.shard.close_segment();
    point.write();
    assert!(point.shard.drop_oldest());
    point.message(9);
    assert_eq!(peer.pump(&mut point), nothing());
    let actions = point.actions();
    let [Action::ReadLog(index)] = actions[..] else { panic!("{actions:?}") };
    point.shard.on_segment(point.now, index, point.disk.read(index));
    assert_eq!(peer.pump(&mut point).len(), 7);
    assert!(point.shard.loaded.is_empty(), "nobody needs it any more");
}

#[test]
fn what_the_store_has_lost_ends_the_session_and_says_so() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.write();
    peer.pump(&mut point);
    point.message(3);
    point.shard.close_segment();
    point.write();
    point.shard.drop_oldest();
    let pumped = point.shard.pump(peer.key, &mut peer.encoder, &mut Vec::new(), 1000);
    assert_eq!(pumped, Pumped::Reading);
    point.shard.on_segment(point.now, 3, None);
    assert!(point.actions().contains(&Action::InvalidSession(peer.key)));
}

#[test]
fn when_the_store_is_lost_nothing_waits_and_a_new_one_gets_everything() {
    let mut point = Point::new();
    let mut peer = point.identify();
    point.shard.on_store_lost(point.now);
    assert_eq!(peer.pump(&mut point), ["1 READY", "2 GUILD_CREATE"]);
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.disk = Disk::default();
    point.shard.begin_journal();
    point.disk.take(&mut point.shard, point.now, 9);
    point.write();
    let mut point = point.crash();
    point.connect();
    point.message(3);
    let mut peer = point.resume(&session, 2).unwrap();
    point.write();
    assert_eq!(peer.pump(&mut point), ["3 MESSAGE_CREATE", "4 RESUMED"]);
    assert!(point.shard.is_settled());
}

#[test]
fn records_that_are_rotated_while_a_new_store_gets_everything_lose_nothing() {
    let mut point = Point::new();
    let mut peer = point.identify();
    let session = point.shard.session_id(peer.key).unwrap().to_owned();
    point.shard.on_store_lost(point.now);
    peer.pump(&mut point);
    point.disk = Disk::default();
    point.shard.begin_journal();
    point.say(r#"{"t":"GUILD_UPDATE","s":3,"op":0,"d":{"id":"10","name":"new"}}"#);
    point.disk.rotate(&mut point.shard);
    point.message(4);
    point.disk.take(&mut point.shard, point.now, 9);
    point.write();
    let mut point = point.crash();
    for action in point.actions() {
        let Action::ReadLog(index) = action else { continue };
        point.shard.on_segment(point.now, index, point.disk.read(index));
    }
    let (_, sent) = point.connect();
    assert!(sent.contains(r#""op":6"#) && sent.contains(r#""seq":4"#), "{sent}");
    let mut peer = point.resume(&session, 2).unwrap();
    point.say(r#"{"t":"RESUMED","s":5,"op":0,"d":{}}"#);
    point.write();
    assert!(point.shard.is_settled());
    let got = peer.pump(&mut point);
    let [Action::ReadLog(index)] = point.actions()[..] else { panic!("{got:?}") };
    point.shard.on_segment(point.now, index, point.disk.read(index));
    assert_eq!(peer.pump(&mut point), ["3 GUILD_UPDATE", "4 MESSAGE_CREATE", "5 RESUMED"]);
}

#[test]
fn a_close_that_is_fatal_reaches_who_comes_after_a_crash_too() {
    let mut point = Point::new();
    point.write();
    let mut point = point.crash();
    point.connect();
    point.shard.on_closed(point.now, Some(CloseCode::AUTHENTICATION_FAILED));
    let resume = point.resume("none", 1).err();
    assert_eq!(resume, Some(ResumeRefused::Stopped(CloseCode::AUTHENTICATION_FAILED)));
}
