//! Tests of the command queue: one rule each, and properties over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::session::payload::{self, ClientPayload};
use crate::session::testing::{ms, secs, start};

fn live(now: Instant) -> Commands {
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    commands.resume(now);
    commands
}

/// A voice state update that says who sent it and as which of its commands.
fn voice(client: u64, number: usize) -> Command {
    let d = format!(r#"{{"guild_id":"{client}","channel_id":"{number}"}}"#);
    Command::new(CommandOp::VoiceStateUpdate, d)
}

fn presence(status: &str) -> Command {
    Command::new(CommandOp::PresenceUpdate, format!(r#"{{"status":"{status}"}}"#))
}

/// Client and number of a payload made from `voice`.
fn sender(payload: &[u8]) -> (u64, usize) {
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let number = |key: &str| payload["d"][key].as_str().unwrap().parse::<u64>().unwrap();
    (number("guild_id"), number("channel_id") as usize)
}

fn poll_all(commands: &mut Commands, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| commands.poll(now)).map(|it| String::from_utf8(it).unwrap()).collect()
}

/// Pushes as often as asked, polling between, so that the queue's own limit is not met.
fn send(commands: &mut Commands, count: usize, now: Instant) -> usize {
    (0..count).filter(|&number| commands.push(1, voice(1, number), now).is_ok() && commands.poll(now).is_some()).count()
}

#[test]
fn a_command_goes_up_with_op_and_d_alone() {
    let now = start();
    let mut commands = live(now);
    let sent = br#"{"x":1,"d":{"guild_id": 1.0e0,"channel_id":null},"op":4,"s":2}"#;
    assert!(payload::parse(sent).is_err());
    let sent = br#"{"x":1,"d":{"guild_id": 1, "channel_id":null,"self_mute":false, "self_deaf":true},"op":4.0,"s":2}"#;
    let Ok(ClientPayload::Command(command)) = payload::parse(sent) else { panic!() };
    commands.push(1, command, now).unwrap();
    assert_eq!(
        poll_all(&mut commands, now),
        [r#"{"op":4,"d":{"guild_id": 1, "channel_id":null,"self_mute":false, "self_deaf":true}}"#]
    );
}

#[test]
fn commands_leave_room_for_heartbeats_and_go_on_when_the_window_has_passed() {
    let now = start();
    let mut commands = live(now);
    assert_eq!(send(&mut commands, COMMANDS_MAX + 1, now), COMMANDS_MAX);
    assert_eq!(commands.due(), Some(now + SEND_WINDOW));
    assert_eq!(commands.poll(now + SEND_WINDOW - ms(1)), None);
    assert!(commands.poll(now + SEND_WINDOW).is_some());
}

#[test]
fn heartbeats_count() {
    let now = start();
    let mut commands = live(now);
    for _ in 0..10 {
        commands.on_sent(now);
    }
    assert_eq!(send(&mut commands, COMMANDS_MAX, now), COMMANDS_MAX - 10);
}

#[test]
fn a_new_connection_starts_a_new_window() {
    let now = start();
    let mut commands = live(now);
    send(&mut commands, COMMANDS_MAX, now);
    commands.on_connection(now);
    assert_eq!(send(&mut commands, 1, now), 1);
}

#[test]
fn while_upstream_is_not_live_commands_wait() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    commands.push(1, voice(1, 0), now).unwrap();
    assert_eq!((commands.poll(now), commands.due(), commands.queued()), (None, None, 1));
    commands.resume(now + secs(9));
    assert_eq!(commands.due(), Some(now + secs(9)));
    assert_eq!(poll_all(&mut commands, now + secs(9)).len(), 1);
    commands.pause(now + secs(9));
    commands.push(1, voice(1, 1), now).unwrap();
    assert_eq!(commands.poll(now + secs(9)), None);
}

#[test]
fn one_client_cannot_fill_the_queue_of_another() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    for number in 0..CLIENT_COMMANDS_MAX {
        commands.push(1, voice(1, number), now).unwrap();
    }
    let refused = commands.push(1, voice(1, 0), now).unwrap_err();
    assert_eq!(refused, Refused::Client { limit: CLIENT_COMMANDS_MAX });
    assert_eq!(refused.close_code(), CloseCode::RATE_LIMITED);
    assert_eq!(commands.push(2, voice(2, 0), now), Ok(()));
}

#[test]
fn all_clients_together_cannot_queue_without_bound() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    for client in 0..QUEUED_COMMANDS_MAX as u64 {
        commands.push(client, voice(client, 0), now).unwrap();
    }
    assert_eq!(commands.push(9999, voice(1, 0), now), Err(Refused::Shard { limit: QUEUED_COMMANDS_MAX }));
}

#[test]
fn a_busy_client_does_not_delay_another() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    for number in 0..10 {
        commands.push(1, voice(1, number), now).unwrap();
    }
    commands.push(2, voice(2, 0), now).unwrap();
    commands.resume(now);
    let sent = poll_all(&mut commands, now);
    assert_eq!(sender(sent[1].as_bytes()), (2, 0));
}

#[test]
fn the_last_writer_of_the_presence_wins() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    for (client, status) in [(1, "dnd"), (2, "online"), (1, "idle")] {
        commands.push(client, presence(status), now).unwrap();
    }
    commands.resume(now);
    assert_eq!(poll_all(&mut commands, now), [r#"{"op":3,"d":{"status":"idle"}}"#]);
}

#[test]
fn five_presences_pass_and_the_sixth_waits_without_holding_up_others() {
    let now = start();
    let mut commands = live(now);
    for _ in 0..PRESENCES_MAX {
        commands.push(1, presence("dnd"), now).unwrap();
        assert!(commands.poll(now).is_some());
    }
    commands.push(1, presence("idle"), now).unwrap();
    assert_eq!((commands.poll(now), commands.due()), (None, Some(now + PRESENCE_WINDOW)));
    assert_eq!(send(&mut commands, 1, now), 1);
    assert_eq!(poll_all(&mut commands, now + PRESENCE_WINDOW), [r#"{"op":3,"d":{"status":"idle"}}"#]);
}

#[test]
fn a_dropped_client_leaves_nothing_behind() {
    let now = start();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    commands.push(1, voice(1, 0), now).unwrap();
    commands.push(1, presence("dnd"), now).unwrap();
    commands.push(2, voice(2, 0), now).unwrap();
    commands.drop_client(1);
    commands.resume(now);
    let sent = poll_all(&mut commands, now);
    assert_eq!((sent.len(), sender(sent[0].as_bytes()), commands.queued()), (1, (2, 0), 0));
}

#[test]
fn a_member_request_is_answered_to_its_client_alone() {
    let now = start();
    let mut commands = live(now);
    let d = r#"{"guild_id":"1","query":"","limit":0,"nonce":"mine"}"#;
    commands.push(7, Command::new(CommandOp::RequestGuildMembers, d), now).unwrap();
    let sent = poll_all(&mut commands, now).remove(0);
    let nonce = sent.split(r#""nonce":""#).nth(1).unwrap().split('"').next().unwrap();
    assert!(nonce.starts_with("sg"), "{sent}");
    let answer = format!(r#"{{"nonce":"{nonce}","members":[],"chunk_index":0,"chunk_count":1}}"#);
    let expected = Route::Client { client: 7, rewritten_d: answer.replace(nonce, "mine").into() };
    assert_eq!(commands.route(b"GUILD_MEMBERS_CHUNK", answer.as_bytes(), now), expected);
}

/// How many payloads go up in each of five sessions that Discord forgets, each that long after it has begun.
fn told_to_sessions(command: Command, lived: Duration) -> Vec<usize> {
    let mut now = start();
    let mut commands = live(now);
    commands.push(7, command, now).unwrap();
    let mut told = vec![poll_all(&mut commands, now).len()];
    for _ in 0..4 {
        commands.pause(now + lived);
        // Out for longer than a session must live.
        now += lived + secs(60);
        commands.on_connection(now);
        commands.on_new_session(now, |client| client == 7);
        commands.resume(now);
        told.push(poll_all(&mut commands, now).len());
    }
    told
}

#[test]
fn what_may_have_ended_a_session_is_told_to_the_next_one_and_to_no_third() {
    let ask = || Command::new(CommandOp::RequestGuildMembers, r#"{"guild_id":"1","query":"","limit":0}"#);
    assert_eq!(told_to_sessions(presence("dnd"), LIVE_MIN - ms(1)), [1, 1, 0, 0, 0]);
    assert_eq!(told_to_sessions(presence("dnd"), LIVE_MIN), [1, 1, 1, 1, 1], "sessions have outlived it");
    assert_eq!(told_to_sessions(ask(), secs(1)), [1, 1, 0, 0, 0]);
}

#[test]
fn a_payload_that_a_nonce_would_make_too_long_goes_up_as_it_is() {
    let now = start();
    let mut commands = live(now);
    let frame = |query: &str| format!(r#"{{"op":8,"d":{{"guild_id":"1","limit":1,"query":"{query}"}}}}"#);
    let payload = frame(&"x".repeat(PAYLOAD_BYTES_MAX - frame("").len()));
    let Ok(ClientPayload::Command(command)) = payload::parse(payload.as_bytes()) else { panic!() };
    commands.push(1, command, now).unwrap();
    assert_eq!(poll_all(&mut commands, now), [payload]);
}

/// One thing that happens to the queue.
#[derive(Clone, Debug)]
enum Event {
    Push(u64),
    Presence,
    Heartbeat,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        40 => (0..5u64).prop_map(Event::Push),
        5 => Just(Event::Presence),
        1 => Just(Event::Heartbeat),
        4 => (0..4000u64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 0..1200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_budget_holds_and_every_client_is_served_in_order(events in events()) {
        let begin = start();
        let mut now = begin;
        let mut commands = live(now);
        let mut pushed: BTreeMap<u64, usize> = BTreeMap::new();
        let mut served: BTreeMap<u64, usize> = BTreeMap::new();
        let mut sent: Vec<Instant> = Vec::new();
        let mut presences: Vec<Instant> = Vec::new();
        let mut heartbeats: Vec<Instant> = Vec::new();
        for event in events.into_iter().chain(std::iter::repeat_n(Event::Wait(63_000), 10)) {
            match event {
                Event::Push(client) => {
                    let number = pushed.entry(client).or_default();
                    if commands.push(client, voice(client, *number), now).is_ok() {
                        *number += 1;
                    }
                }
                Event::Presence => commands.push(9, presence("dnd"), now).unwrap(),
                // As often as Discord has us beat, so that the room kept for it must do.
                Event::Heartbeat if heartbeats.last().is_none_or(|&last| now - last >= secs(41)) => {
                    heartbeats.push(now);
                    sent.push(now);
                    commands.on_sent(now);
                }
                Event::Heartbeat => {}
                Event::Wait(time) => now += ms(time),
            }
            while let Some(payload) = commands.poll(now) {
                sent.push(now);
                if payload.starts_with(br#"{"op":3"#) {
                    presences.push(now);
                    continue;
                }
                let (client, number) = sender(&payload);
                let next = served.entry(client).or_default();
                prop_assert_eq!(number, *next, "client {} out of order", client);
                *next += 1;
            }
            if let Some(due) = commands.due() {
                prop_assert!(due > now, "due now, and poll yields nothing");
            }
        }
        prop_assert_eq!(&pushed.into_iter().filter(|it| it.1 > 0).collect::<BTreeMap<_, _>>(), &served);
        for (sent, limit, window) in [(&sent, SENDS_MAX, secs(60)), (&presences, PRESENCES_MAX, secs(20))] {
            for many in sent.windows(limit + 1) {
                prop_assert!(many[limit] - many[0] >= window, "{} payloads within {:?}", limit + 1, window);
            }
        }
    }

    #[test]
    fn nobody_is_served_twice_while_another_waits(backlogs in prop::collection::vec(1..20usize, 1..6)) {
        let now = start();
        let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
        for (client, &count) in backlogs.iter().enumerate() {
            for number in 0..count {
                commands.push(client as u64, voice(client as u64, number), now).unwrap();
            }
        }
        commands.resume(now);
        let sent: Vec<_> = poll_all(&mut commands, now).iter().map(|it| sender(it.as_bytes())).collect();
        prop_assert_eq!(sent.len(), backlogs.iter().sum::<usize>());
        // Served in rounds: the nth command of anybody comes before the next one of anybody else.
        prop_assert!(sent.is_sorted_by_key(|it| it.1));
    }
}
