//! The shard, its seats and the group by example: Discord is a line of payloads, a client is what it has been sent.

use super::epoch::{GUILDS_SILENCE_MAX, INTENT_GUILDS};
use super::group::{Group, LogBudget};
use super::log::SEGMENT_BYTES;
use super::pressure::Pressure;
use super::seat::Pumped;
use super::*;
use crate::session::payload::{self, ClientPayload, Token};
use crate::session::payload::{Command, Identify, Resume};
use crate::wire::encode::Encoder;
use crate::wire::{Compression, Deframer, Message, Role, ShardId};

const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#;

#[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
fn start() -> Instant {
    Instant::now()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn settings(shard: u32) -> ShardSettings {
    let mut settings = properties::settings();
    (settings.upstream.shard, settings.upstream.shard_count) = (ShardId(shard), 4);
    settings.upstream.intents = INTENT_GUILDS;
    settings
}

fn say(shard: &mut Shard, now: Instant, payload: &str) {
    shard.on_payload(now, payload.as_bytes()).unwrap();
}

fn ready(guilds: &[u64]) -> String {
    let guilds: Vec<_> = guilds.iter().map(|id| format!(r#"{{"unavailable":true,"id":"{id}"}}"#)).collect();
    let guilds = guilds.join(",");
    format!(r#"{{"t":"READY","s":1,"op":0,"d":{{"session_id":"a","user":{{"id":"1"}},"guilds":[{guilds}]}}}}"#)
}

fn guild(s: u64, id: u64) -> String {
    format!(r#"{{"t":"GUILD_CREATE","s":{s},"op":0,"d":{{"id":"{id}","unavailable":false,"name":"old"}}}}"#)
}

fn message(s: u64, text: &str) -> String {
    format!(r#"{{"t":"MESSAGE_CREATE","s":{s},"op":0,"d":{{"content":"{text}"}}}}"#)
}

/// Connected to Discord, before READY.
fn identifying(now: Instant) -> Shard {
    let mut shard = Shard::new(settings(0), Shapes::default(), 1, now);
    connect(&mut shard, now);
    shard
}

fn connect(shard: &mut Shard, now: Instant) {
    shard.on_timeout(now);
    actions(shard, now);
    shard.on_turn(now, now);
    shard.on_open(now);
    say(shard, now, HELLO);
    actions(shard, now);
}

/// With these guilds, and everything that follows READY there.
fn live(now: Instant, guilds: &[u64]) -> Shard {
    let mut shard = identifying(now);
    say(&mut shard, now, &ready(guilds));
    for (n, id) in guilds.iter().enumerate() {
        say(&mut shard, now, &guild(n as u64 + 2, *id));
    }
    actions(&mut shard, now);
    assert!(shard.is_settled());
    shard
}

fn actions(shard: &mut Shard, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| shard.poll(now)).collect()
}

/// A client's connection.
struct Client {
    key: SeatKey,
    encoder: Encoder,
    deframer: Deframer,
}

impl Client {
    fn on(key: SeatKey) -> Self {
        Self { key, encoder: Encoder::new(Compression::None), deframer: Deframer::new(Role::Client, 1 << 24) }
    }

    fn identify(shard: &mut Shard) -> Self {
        let entropy = [shard.next_key as u8; 12];
        Self::on(shard.identify(&identify(), entropy).unwrap())
    }

    /// What it is sent when there is room for so many bytes: `t` and `s`, and what the pump came to.
    fn pump_within(&mut self, shard: &mut Shard, room: usize) -> (Vec<String>, Pumped) {
        let mut bytes = Vec::new();
        let pumped = shard.pump(self.key, &mut self.encoder, &mut bytes, room);
        let (mut rest, mut got) = (&bytes[..], Vec::new());
        while let Some(message) = self.deframer.next(&mut rest).unwrap() {
            let Message::Text(payload) = message else { panic!("{message:?}") };
            let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let detail = &value["d"]["name"].as_str().or(value["d"]["content"].as_str()).unwrap_or_default();
            got.push(format!("{} {} {detail}", value["s"], value["t"].as_str().unwrap()).trim_end().to_owned());
        }
        (got, pumped)
    }

    fn pump(&mut self, shard: &mut Shard) -> Vec<String> {
        self.pump_within(shard, usize::MAX / 2).0
    }

    /// A new connection that takes the session up again behind `seq`.
    fn resume(shard: &mut Shard, session: &str, seq: u64) -> Result<Self, ResumeRefused> {
        let resume = Resume { token: Token("secret".to_owned()), session_id: session.to_owned(), seq };
        shard.resume(start(), &resume).map(Self::on)
    }

    fn session(&self, shard: &Shard) -> String {
        shard.session_id(self.key).unwrap().to_owned()
    }
}

fn identify() -> Identify {
    Identify { token: Token("secret".to_owned()), shard: Some([0, 4]), intents: 1, compress: false }
}

fn command(json: &str) -> Command {
    match payload::parse(json.as_bytes()) {
        Ok(ClientPayload::Command(command)) => command,
        other => panic!("{other:?}"),
    }
}

// ---- the snapshot

#[test]
fn a_client_waits_for_ready_and_the_guilds_and_then_gets_both_in_order() {
    let now = start();
    let mut shard = identifying(now);
    let mut client = Client::identify(&mut shard);
    say(&mut shard, now, &ready(&[10, 11]));
    say(&mut shard, now, &guild(2, 10));
    assert_eq!(client.pump(&mut shard), [] as [&str; 0]);
    say(&mut shard, now, &guild(3, 11));
    say(&mut shard, now, &message(4, "live"));
    assert_eq!(
        client.pump(&mut shard),
        ["1 READY", "2 GUILD_CREATE old", "3 GUILD_CREATE old", "4 MESSAGE_CREATE live"]
    );
}

#[test]
fn a_guild_that_does_not_come_is_waited_for_only_so_long() {
    let now = start();
    let mut shard = identifying(now);
    let mut client = Client::identify(&mut shard);
    say(&mut shard, now, &ready(&[10, 11]));
    say(&mut shard, now, &guild(2, 10));
    assert!(shard.due().unwrap() <= now + GUILDS_SILENCE_MAX);
    shard.on_timeout(now + GUILDS_SILENCE_MAX);
    assert_eq!(client.pump(&mut shard), ["1 READY", "2 GUILD_CREATE old", "3 GUILD_DELETE"]);
    say(&mut shard, now, &guild(3, 11));
    assert_eq!(client.pump(&mut shard), ["4 GUILD_CREATE old"]);
}

#[test]
fn a_guild_that_changes_before_it_was_sent_is_sent_as_it_was() {
    let now = start();
    let mut shard = live(now, &[10, 11]);
    let mut client = Client::identify(&mut shard);
    assert_eq!(client.pump_within(&mut shard, 1), (vec!["1 READY".to_owned()], Pumped::Full));
    say(&mut shard, now, r#"{"t":"GUILD_UPDATE","s":4,"op":0,"d":{"id":"11","name":"new"}}"#);
    say(&mut shard, now, r#"{"t":"GUILD_DELETE","s":5,"op":0,"d":{"id":"10"}}"#);
    let mut rest = client.pump(&mut shard);
    rest[..2].sort();
    assert_eq!(rest, ["2 GUILD_CREATE old", "3 GUILD_CREATE old", "4 GUILD_UPDATE new", "5 GUILD_DELETE"]);
    assert_eq!(shard.snapshots, 0);
}

/// Discord says that the session is gone; the shard connects again and is about to get READY.
fn forgotten(shard: &mut Shard, now: Instant) -> Instant {
    say(shard, now, r#"{"t":null,"s":null,"op":9,"d":false}"#);
    actions(shard, now);
    let later = shard.due().unwrap();
    connect(shard, later);
    later
}

#[test]
fn a_ready_during_a_snapshot_leaves_the_client_its_snapshot_and_tells_it_the_difference() {
    let now = start();
    let mut shard = live(now, &[10, 11]);
    let mut client = Client::identify(&mut shard);
    client.pump_within(&mut shard, 1);
    let later = forgotten(&mut shard, now);
    say(&mut shard, later, &ready(&[12, 11]));
    assert_eq!(actions(&mut shard, later), []);
    assert_eq!(client.pump(&mut shard), ["2 GUILD_CREATE old", "3 GUILD_CREATE old", "4 GUILD_DELETE"]);
    let mut other = Client::identify(&mut shard);
    say(&mut shard, later, &guild(2, 12));
    assert_eq!(client.pump(&mut shard), ["5 GUILD_CREATE old"]);
    assert_eq!(other.pump(&mut shard), [] as [&str; 0]);
    say(&mut shard, later, &guild(3, 11));
    assert_eq!(client.pump(&mut shard), [] as [&str; 0], "it is as it was");
    assert_eq!(other.pump(&mut shard), ["1 READY", "2 GUILD_CREATE old", "3 GUILD_CREATE old"]);
    assert_eq!((shard.snapshots, shard.report(later).known_gaps), (0, 1));
}

#[test]
fn a_guild_that_changed_while_discord_forgot_comes_behind_an_outage_also_to_who_was_away() {
    let now = start();
    let mut shard = live(now, &[10, 11]);
    let (mut near, mut away) = (Client::identify(&mut shard), Client::identify(&mut shard));
    let session = away.session(&shard);
    near.pump(&mut shard);
    away.pump(&mut shard);
    shard.leave(now, away.key, false);
    let later = forgotten(&mut shard, now);
    say(&mut shard, later, &ready(&[10, 11]));
    say(&mut shard, later, r#"{"t":"GUILD_CREATE","s":2,"op":0,"d":{"id":"10","unavailable":false,"name":"new"}}"#);
    say(&mut shard, later, &guild(3, 11));
    say(&mut shard, later, &message(4, "live"));
    assert_eq!(near.pump(&mut shard), ["4 GUILD_DELETE", "5 GUILD_CREATE new", "6 MESSAGE_CREATE live"]);
    let mut away = Client::resume(&mut shard, &session, 3).unwrap();
    assert_eq!(away.pump(&mut shard), ["4 GUILD_DELETE", "5 GUILD_CREATE new", "6 MESSAGE_CREATE live", "7 RESUMED"]);
}

#[test]
fn a_known_guild_that_discord_does_not_send_again_is_in_an_outage() {
    let now = start();
    let mut shard = live(now, &[10, 11]);
    let mut client = Client::identify(&mut shard);
    client.pump(&mut shard);
    let later = forgotten(&mut shard, now);
    say(&mut shard, later, &ready(&[10, 11]));
    say(&mut shard, later, &guild(2, 11));
    assert!(!shard.is_settled());
    shard.on_timeout(later + GUILDS_SILENCE_MAX);
    assert!(shard.is_settled());
    assert_eq!(client.pump(&mut shard), ["4 GUILD_DELETE"]);
    say(&mut shard, later, &message(3, "live"));
    say(&mut shard, later, &guild(4, 10));
    assert_eq!(client.pump(&mut shard), ["5 MESSAGE_CREATE live", "6 GUILD_CREATE old"]);
}

#[test]
fn what_a_slow_client_makes_us_write_down_is_bounded() {
    let now = start();
    let mut shard = live(now, &[10, 11, 12]);
    let large = "x".repeat(seat::RENDERED_BYTES_MAX);
    for (s, id) in [(5, 10), (6, 11), (7, 12)] {
        let update = format!(r#"{{"t":"GUILD_UPDATE","s":{s},"op":0,"d":{{"id":"{id}","name":"{large}"}}}}"#);
        say(&mut shard, now, &update);
    }
    let mut client = Client::identify(&mut shard);
    client.pump_within(&mut shard, 1);
    say(&mut shard, now, r#"{"t":"GUILD_DELETE","s":8,"op":0,"d":{"id":"10"}}"#);
    assert_eq!(actions(&mut shard, now), []);
    say(&mut shard, now, r#"{"t":"GUILD_DELETE","s":9,"op":0,"d":{"id":"11"}}"#);
    assert_eq!(actions(&mut shard, now), [Action::Disconnect(client.key, CloseCode::UNKNOWN_ERROR)]);
    assert_eq!((shard.snapshots, shard.report(now).sessions), (0, 0));
}

#[test]
fn who_leaves_within_the_snapshot_leaves_nothing_behind() {
    let now = start();
    let mut shard = live(now, &[10, 11]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    client.pump_within(&mut shard, 1);
    shard.leave(now, client.key, false);
    assert_eq!((shard.snapshots, shard.report(now).sessions), (0, 0));
    assert_eq!(Client::resume(&mut shard, &session, 1).err(), Some(ResumeRefused::InvalidSession));
}

#[test]
fn who_leaves_with_the_last_guild_may_resume() {
    let now = start();
    let mut shard = live(now, &[10]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    assert_eq!(client.pump_within(&mut shard, 1).0, ["1 READY"]);
    assert_eq!(client.pump_within(&mut shard, 1).0, ["2 GUILD_CREATE old"]);
    shard.leave(now, client.key, false);
    let mut client = Client::resume(&mut shard, &session, 2).unwrap();
    assert_eq!(client.pump(&mut shard), ["3 RESUMED"]);
}

// ---- RESUME

#[test]
fn resume_replays_exactly_what_followed_then_says_so_then_goes_on() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    for s in 2..5 {
        say(&mut shard, now, &message(s, "a"));
    }
    assert_eq!(client.pump(&mut shard).len(), 4);
    shard.leave(now, client.key, false);
    say(&mut shard, now, &message(5, "missed"));
    let mut client = Client::resume(&mut shard, &session, 3).unwrap();
    say(&mut shard, now, &message(6, "live"));
    assert_eq!(
        client.pump(&mut shard),
        ["4 MESSAGE_CREATE a", "5 MESSAGE_CREATE missed", "6 RESUMED", "7 MESSAGE_CREATE live"]
    );
}

#[test]
fn a_second_resume_from_the_same_place_gives_the_same_again() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    say(&mut shard, now, &message(2, "a"));
    say(&mut shard, now, &message(3, "b"));
    client.pump(&mut shard);
    for _ in 0..3 {
        shard.leave(now, client.key, false);
        client = Client::resume(&mut shard, &session, 1).unwrap();
        assert_eq!(client.pump(&mut shard), ["2 MESSAGE_CREATE a", "3 MESSAGE_CREATE b", "4 RESUMED"]);
    }
}

#[test]
fn what_cannot_be_resumed_is_refused_for_its_reason() {
    let now = start();
    let mut shard = live(now, &[10]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    client.pump(&mut shard);
    assert_eq!(Client::resume(&mut shard, "0".repeat(32).as_str(), 1).err(), Some(ResumeRefused::InvalidSession));
    assert_eq!(Client::resume(&mut shard, &session, 3).err(), Some(ResumeRefused::InvalidSeq));
    assert_eq!(Client::resume(&mut shard, &session, u64::MAX).err(), Some(ResumeRefused::InvalidSeq));
    // Inside READY and the guilds: they are not kept.
    assert_eq!(Client::resume(&mut shard, &session, 0).err(), Some(ResumeRefused::InvalidSession));
    assert_eq!(actions(&mut shard, now), [Action::Disconnect(client.key, CloseCode::UNKNOWN_ERROR)]);
    assert_eq!(Client::resume(&mut shard, &session, 2).err(), Some(ResumeRefused::InvalidSession));
}

#[test]
fn who_has_everything_resumes_although_the_log_has_moved_on_over_others_answers() {
    let now = start();
    let mut shard = live(now, &[10]);
    let mut asker = Client::identify(&mut shard);
    let mut other = Client::identify(&mut shard);
    let session = other.session(&shard);
    asker.pump(&mut shard);
    other.pump(&mut shard);
    let request = command(r#"{"op":8,"d":{"guild_id":"10","query":"","limit":0,"nonce":"n"}}"#);
    shard.on_command(now, asker.key, request).unwrap();
    let nonce = match &actions(&mut shard, now)[..] {
        [Action::Send(sent)] => serde_json::from_slice::<serde_json::Value>(sent).unwrap()["d"]["nonce"].clone(),
        other => panic!("{other:?}"),
    };
    say(
        &mut shard,
        now,
        &format!(r#"{{"t":"GUILD_MEMBERS_CHUNK","s":3,"op":0,"d":{{"guild_id":"10","members":[],"nonce":{nonce}}}}}"#),
    );
    assert_eq!(asker.pump(&mut shard), ["3 GUILD_MEMBERS_CHUNK"]);
    assert_eq!(other.pump(&mut shard), [] as [&str; 0]);
    shard.leave(now, other.key, false);
    assert!(shard.drop_oldest());
    let mut other = Client::resume(&mut shard, &session, 2).expect("it has missed nothing");
    say(&mut shard, now, &message(4, "live"));
    assert_eq!(other.pump(&mut shard), ["3 RESUMED", "4 MESSAGE_CREATE live"]);
}

// ---- seats

#[test]
fn when_seats_are_full_the_one_that_left_longest_ago_ends() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut clients: Vec<_> = (0..SEATS_MAX).map(|_| Client::identify(&mut shard)).collect();
    assert_eq!(shard.identify(&identify(), [1; 12]), Err(IdentifyRefused::Full), "all of them are connected");
    for client in &mut clients {
        client.pump(&mut shard);
    }
    shard.leave(now + secs(2), clients[5].key, false);
    shard.leave(now + secs(1), clients[9].key, false);
    assert!(shard.identify(&identify(), [1; 12]).is_ok());
    assert!(shard.session_id(clients[5].key).is_some());
    assert!(shard.session_id(clients[9].key).is_none());
}

#[test]
fn a_session_that_its_client_ended_is_gone() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    let session = client.session(&shard);
    client.pump(&mut shard);
    shard.leave(now, client.key, true);
    assert_eq!(Client::resume(&mut shard, &session, 1).err(), Some(ResumeRefused::InvalidSession));
}

#[test]
fn commands_of_a_client_that_stays_go_to_the_new_session() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    client.pump(&mut shard);
    let later = forgotten(&mut shard, now);
    shard.on_command(later, client.key, command(r#"{"op":4,"d":{"guild_id":"1","channel_id":null}}"#)).unwrap();
    assert_eq!(shard.report(later).commands_queued, 1);
    say(&mut shard, later, &ready(&[]));
    assert!(matches!(&actions(&mut shard, later)[..], [Action::Send(sent)] if sent.starts_with(br#"{"op":4"#)));
}

#[test]
fn what_the_forgotten_session_had_not_answered_is_asked_again() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    let gone = Client::identify(&mut shard);
    client.pump(&mut shard);
    let request = command(r#"{"op":8,"d":{"guild_id":"4","query":"","limit":0,"nonce":"mine"}}"#);
    shard.on_command(now, client.key, request.clone()).unwrap();
    shard.on_command(now, gone.key, request).unwrap();
    assert_eq!(actions(&mut shard, now).len(), 2);
    shard.leave(now, gone.key, true);
    let later = forgotten(&mut shard, now);
    say(&mut shard, later, &ready(&[]));
    let asked = actions(&mut shard, later);
    let [Action::Send(again)] = &asked[..] else { panic!("{asked:?}") };
    let again: serde_json::Value = serde_json::from_slice(again).unwrap();
    let nonce = again["d"]["nonce"].as_str().unwrap();
    let chunk = format!(r#"{{"t":"GUILD_MEMBERS_CHUNK","s":2,"op":0,"d":{{"chunk_count":1,"nonce":"{nonce}"}}}}"#);
    say(&mut shard, later, &chunk);
    assert_eq!(client.pump(&mut shard), ["2 GUILD_MEMBERS_CHUNK"]);
    assert_eq!(shard.commands.requests().pending(), 0);
}

#[test]
fn a_presence_that_a_client_set_is_told_to_the_next_session_while_its_client_is_there() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    client.pump(&mut shard);
    let dnd = r#"{"op":3,"d":{"since":null,"activities":[],"status":"dnd","afk":false}}"#;
    shard.on_command(now, client.key, command(dnd)).unwrap();
    assert_eq!(presences(&mut shard, now), [dnd]);
    let later = forgotten(&mut shard, now);
    say(&mut shard, later, &ready(&[]));
    assert_eq!(presences(&mut shard, later), [dnd]);
    // Not when the operator has set another one meanwhile, nor when nobody is there who set it.
    shard.set_presence(later, Some(r#"{"status":"idle"}"#.to_owned()));
    assert_eq!(presences(&mut shard, later).len(), 1);
    let later = forgotten(&mut shard, later + secs(60));
    say(&mut shard, later, &ready(&[]));
    assert_eq!(presences(&mut shard, later), Vec::<String>::new());
    shard.on_command(later, client.key, command(dnd)).unwrap();
    assert_eq!(presences(&mut shard, later), [dnd]);
    shard.leave(later, client.key, true);
    let later = forgotten(&mut shard, later + secs(60));
    say(&mut shard, later, &ready(&[]));
    assert_eq!(presences(&mut shard, later), Vec::<String>::new());
}

#[test]
fn after_a_cut_in_the_guild_stream_its_silence_begins_with_resumed() {
    let mut now = start();
    let mut shard = identifying(now);
    let mut client = Client::identify(&mut shard);
    say(&mut shard, now, &ready(&[1]));
    shard.on_closed(now, None);
    now += GUILDS_SILENCE_MAX + secs(10);
    shard.on_timeout(now);
    shard.on_open(now);
    say(&mut shard, now, HELLO);
    say(&mut shard, now, r#"{"t":"RESUMED","s":2,"op":0,"d":{}}"#);
    assert_eq!(client.pump(&mut shard), Vec::<String>::new(), "the guild is waited for");
    say(&mut shard, now, &guild(3, 1));
    assert_eq!(client.pump(&mut shard), ["1 READY", "2 GUILD_CREATE old"]);
}

#[test]
fn what_is_about_a_guild_of_another_shard_does_not_go_up() {
    let now = start();
    let mut shard = live(now, &[]);
    let client = Client::identify(&mut shard);
    let (ours, foreign) = (4_u64 << 22, 5_u64 << 22);
    for d in [
        format!(r#"{{"op":4,"d":{{"guild_id":"{foreign}","channel_id":null}}}}"#),
        format!(r#"{{"op":4,"d":{{"guild_id":{foreign},"channel_id":null}}}}"#),
        format!(r#"{{"op":8,"d":{{"guild_id":["{foreign}"],"query":"","limit":0}}}}"#),
        format!(r#"{{"op":31,"d":{{"guild_ids":["{foreign}","{foreign}"]}}}}"#),
        format!(r#"{{"op":43,"d":{{"guild_id":"{foreign}","fields":["status"]}}}}"#),
    ] {
        shard.on_command(now, client.key, command(&d)).unwrap();
        assert_eq!(actions(&mut shard, now), [], "{d}");
    }
    assert_eq!(shard.report(now).commands_misrouted, 5);
    let sounds = format!(r#"{{"op":31,"d":{{"guild_ids":["{foreign}","{ours}"]}}}}"#);
    shard.on_command(now, client.key, command(&sounds)).unwrap();
    let wanted = format!(r#"{{"op":31,"d":{{"guild_ids":["{ours}"]}}}}"#);
    assert_eq!(actions(&mut shard, now), [Action::Send(wanted.into_bytes())]);
    assert_eq!(shard.report(now).commands_misrouted, 5);
}

#[test]
fn commands_wait_while_the_upstream_session_is_not_live() {
    let now = start();
    let mut shard = live(now, &[]);
    let client = Client::identify(&mut shard);
    shard.on_closed(now, None);
    shard.on_command(now, client.key, command(r#"{"op":4,"d":{"guild_id":"1","channel_id":null}}"#)).unwrap();
    assert_eq!(actions(&mut shard, now), []);
    let later = shard.due().unwrap();
    shard.on_timeout(later);
    shard.on_open(later);
    say(&mut shard, later, HELLO);
    let before = actions(&mut shard, later);
    assert!(before.iter().all(|it| !matches!(it, Action::Send(sent) if sent.starts_with(br#"{"op":4"#))), "{before:?}");
    say(&mut shard, later, r#"{"t":"RESUMED","s":2,"op":0,"d":{}}"#);
    let after = actions(&mut shard, later);
    assert!(matches!(&after[..], [Action::Send(sent)] if sent.starts_with(br#"{"op":4"#)), "{after:?}");
}

#[test]
fn a_fatal_close_is_said_once_and_clients_are_closed_alike() {
    let now = start();
    let mut shard = live(now, &[]);
    let mut client = Client::identify(&mut shard);
    client.pump(&mut shard);
    let session = client.session(&shard);
    let code = CloseCode::DISALLOWED_INTENTS;
    shard.on_closed(now, Some(code));
    assert_eq!(actions(&mut shard, now), [Action::Stopped(code), Action::Disconnect(client.key, code)]);
    assert_eq!(actions(&mut shard, now), []);
    assert_eq!(shard.identify(&identify(), [1; 12]), Err(IdentifyRefused::Stopped(code)));
    assert_eq!(Client::resume(&mut shard, &session, 1).err(), Some(ResumeRefused::Stopped(code)));
}

#[test]
fn a_session_id_hides_its_shard_and_gives_it_back() {
    let id = session_id(224, *b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c");
    assert_eq!((id.len(), shard_of_session(&id)), (32, Some(224)));
    for wrong in ["", "abc", &"x".repeat(32), &"é".repeat(16), &id[1..]] {
        assert_eq!(shard_of_session(wrong), None, "{wrong}");
    }
}

// ---- the group

const KEEP: Duration = Duration::from_secs(600);

/// Two shards; `bytes` for both.
fn group(now: Instant, bytes: usize) -> Group {
    let mut shards =
        vec![Shard::new(settings(0), Shapes::default(), 1, now), Shard::new(settings(1), Shapes::default(), 2, now)];
    for shard in &mut shards {
        connect(shard, now);
        say(shard, now, &ready(&[]));
        actions(shard, now);
    }
    Group::new(shards, LogBudget { bytes, keep: KEEP })
}

/// A dispatch that fills a segment.
fn large(s: u64) -> String {
    message(s, &"x".repeat(SEGMENT_BYTES))
}

#[test]
fn what_is_older_than_its_time_is_given_back() {
    let now = start();
    let mut group = group(now, usize::MAX);
    say(&mut group.shards[0], now, &large(2));
    say(&mut group.shards[0], now + secs(60), &large(3));
    group.trim_by_age(now + KEEP);
    assert_eq!(group.shards[0].log().tail(), 0);
    group.trim_by_age(now + KEEP + secs(1));
    assert_eq!((group.shards[0].log().tail(), group.shards[0].log().head()), (3, 4));
    assert_eq!(group.dropped_early(), 0);
}

#[test]
fn over_the_budget_the_oldest_segment_of_all_shards_goes_first() {
    let now = start();
    let mut group = group(now, 4 * SEGMENT_BYTES);
    for (n, shard) in [(0, 1), (1, 0), (2, 1), (3, 0), (4, 0)] {
        let s = group.shards[shard].log().head();
        say(&mut group.shards[shard], now + secs(n), &large(s));
        group.trim_to_budget();
        assert!(group.log_bytes() <= 4 * SEGMENT_BYTES);
    }
    // Three fit, since each is a little larger than a segment: the first two went, one of each shard.
    assert_eq!([group.shards[0].log().tail(), group.shards[1].log().tail()], [3, 3]);
    assert_eq!(group.dropped_early(), 2);
}

#[test]
fn a_session_ends_when_the_tail_passes_it_and_not_before() {
    let now = start();
    let mut group = group(now, 5 * SEGMENT_BYTES / 2);
    let shard = &mut group.shards[0];
    let (mut gone, mut slow) = (Client::identify(shard), Client::identify(shard));
    let session = gone.session(shard);
    gone.pump(shard);
    slow.pump(shard);
    shard.leave(now, gone.key, false);
    say(shard, now, &large(2));
    say(shard, now, &large(3));
    group.trim_to_budget();
    assert_eq!(group.shards[0].report(now).sessions, 2, "everything is still there");
    say(&mut group.shards[0], now, &large(4));
    group.trim_to_budget();
    let shard = &mut group.shards[0];
    assert_eq!(shard.report(now).sessions, 1, "who is away has lost the first dispatch");
    assert_eq!(Client::resume(shard, &session, 1).err(), Some(ResumeRefused::InvalidSession));
    assert_eq!(slow.pump_within(shard, 1000), (vec![], Pumped::FellOff));
    assert_eq!(shard.report(now).sessions, 0);
}

#[test]
fn only_who_lags_far_in_a_full_log_is_endangered() {
    let now = start();
    let mut group = group(now, 4 * SEGMENT_BYTES);
    let (mut slow, mut fast) = (Client::identify(&mut group.shards[0]), Client::identify(&mut group.shards[0]));
    slow.pump(&mut group.shards[0]);
    let mut endangered = Vec::new();
    for s in 2..5 {
        say(&mut group.shards[0], now, &message(s, &"x".repeat(SEGMENT_BYTES * 5 / 4)));
        fast.pump(&mut group.shards[0]);
        endangered.push([group.is_endangered(0, slow.key), group.is_endangered(0, fast.key)]);
    }
    assert_eq!(endangered, [[false, false], [false, false], [true, false]]);
}

#[test]
fn while_snapshots_are_held_who_identifies_waits_and_who_resumes_does_not() {
    let now = start();
    let mut shard = live(now, &[10]);
    let mut early = Client::identify(&mut shard);
    assert_eq!(early.pump(&mut shard), ["1 READY", "2 GUILD_CREATE old"]);
    let session = early.session(&shard);
    shard.leave(now, early.key, false);
    shard.hold_snapshots(now, true);
    let mut late = Client::identify(&mut shard);
    assert_eq!(late.pump(&mut shard), Vec::<String>::new());
    let mut early = Client::resume(&mut shard, &session, 2).unwrap();
    assert_eq!(early.pump(&mut shard), ["3 RESUMED"]);
    shard.hold_snapshots(now, false);
    assert_eq!(late.pump(&mut shard), ["1 READY", "2 GUILD_CREATE old"]);
}

#[test]
fn logs_shrink_while_memory_is_short_and_grow_again_after() {
    let now = start();
    let bytes = 64 * SEGMENT_BYTES;
    let budget = LogBudget { bytes, keep: secs(3600) };
    let mut group = Group::new(vec![live(now, &[])], budget);
    let mut s = 2;
    let mut fill = |group: &mut Group| {
        for _ in 0..200 {
            say(&mut group.shards[0], now, &message(s, &"x".repeat(SEGMENT_BYTES / 2)));
            group.trim_to_budget();
            s += 1;
        }
        group.log_bytes()
    };
    assert!(fill(&mut group) > bytes / 2);
    for (pressure, part) in [(Pressure::Shrink, 2), (Pressure::Shed, 4), (Pressure::Full, 16)] {
        group.set_pressure(now, pressure);
        assert!(group.log_bytes() <= bytes / part, "{pressure:?}");
        let held = fill(&mut group);
        assert!(held <= bytes / part && held > bytes / part / 2, "{pressure:?}: {held}");
    }
    group.set_pressure(now, Pressure::None);
    assert!(fill(&mut group) > bytes / 2);
}

/// The payloads with op 3 that the shard wants sent now.
fn presences(shard: &mut Shard, now: Instant) -> Vec<String> {
    let sent = actions(shard, now).into_iter().filter_map(|action| match action {
        Action::Send(payload) => String::from_utf8(payload).ok(),
        _ => None,
    });
    sent.filter(|payload| payload.contains(r#""op":3"#)).collect()
}

#[test]
fn a_presence_of_the_operators_is_sent_when_it_changes_and_as_often_as_discord_takes_it() {
    let now = start();
    let mut shard = live(now, &[]);
    let idle = |n: usize| Some(format!(r#"{{"status":"idle","n":{n}}}"#));
    shard.set_presence(now, idle(0));
    assert_eq!(presences(&mut shard, now).len(), 1);
    shard.set_presence(now, idle(0));
    assert_eq!(presences(&mut shard, now), Vec::<String>::new());
    for n in 1..20 {
        shard.set_presence(now, idle(n));
        presences(&mut shard, now);
    }
    // Five in 20 s; of those that had to wait the last one counts.
    assert!(shard.due().is_some());
    let later = presences(&mut shard, now + secs(21));
    assert!(later.len() == 1 && later[0].contains(r#""n":19"#), "{later:?}");
    shard.set_presence(now + secs(42), None);
    assert!(presences(&mut shard, now + secs(42))[0].contains(r#""status":"online""#));
}
