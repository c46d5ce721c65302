//! One example per rule: what each answer of Discord's leads to. Time is an argument; the actions are what is looked at.

use super::*;
use crate::session::identify::TURN_HELD_MAX;
use crate::session::testing::{ms, secs, start};
use crate::wire::scan::scan;
use crate::wire::{Compression, ShardId};

const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":40000}}"#;
const READY: &str =
    r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"abc","resume_gateway_url":"wss://resume.invalid"}}"#;
const RESUMED: &str = r#"{"t":"RESUMED","s":9,"op":0,"d":{"_trace":[]}}"#;
const RECONNECT: &str = r#"{"t":null,"s":null,"op":7,"d":null}"#;
const GONE: &str = r#"{"t":null,"s":null,"op":9,"d":false}"#;
const RESUMABLE: &str = r#"{"t":null,"s":null,"op":9,"d":true}"#;
const ACK: &str = r#"{"t":null,"s":null,"op":11,"d":null}"#;
const MAIN: &str = "wss://gateway.invalid/?v=10&encoding=json&compress=zlib-stream";
const RESUME_HOST: &str = "wss://resume.invalid/?v=10&encoding=json&compress=zlib-stream";

fn upstream(now: Instant) -> Upstream {
    let settings = UpstreamSettings {
        shard: ShardId(2),
        shard_count: 5,
        token: "secret".to_owned(),
        intents: 513,
        presence: Some(r#"{"status":"idle","since":null,"activities":[],"afk":false}"#.to_owned()),
        gateway_url: "wss://gateway.invalid/?old=1".to_owned(),
        compression: Compression::Zlib,
    };
    Upstream::new(settings, 7, now)
}

fn say(upstream: &mut Upstream, now: Instant, payload: &str) -> Received {
    upstream.on_payload(now, &scan(payload.as_bytes()).unwrap(), payload.as_bytes())
}

fn actions(upstream: &mut Upstream) -> Vec<UpstreamAction> {
    std::iter::from_fn(|| upstream.poll()).collect()
}

/// The ops of what is sent.
fn sent_ops(actions: &[UpstreamAction]) -> Vec<u64> {
    sent(actions).iter().map(|it| it["op"].as_u64().unwrap()).collect()
}

fn sent(actions: &[UpstreamAction]) -> Vec<serde_json::Value> {
    let payload = |it: &UpstreamAction| match it {
        UpstreamAction::Send(payload) => Some(serde_json::from_slice(payload).unwrap()),
        _ => None,
    };
    actions.iter().filter_map(payload).collect()
}

/// It has its turn and connects.
fn with_turn(now: Instant, not_before: Instant) -> Upstream {
    let mut upstream = upstream(now);
    upstream.on_timeout(now);
    assert_eq!(actions(&mut upstream), [UpstreamAction::IdentifyWanted]);
    upstream.on_turn(now, not_before);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Connect(MAIN.to_owned())]);
    upstream
}

fn identified(now: Instant) -> Upstream {
    let mut upstream = with_turn(now, now);
    upstream.on_open(now);
    say(&mut upstream, now, HELLO);
    actions(&mut upstream);
    upstream
}

fn live(now: Instant) -> Upstream {
    let mut upstream = identified(now);
    assert_eq!(say(&mut upstream, now, READY), Received::Ready);
    assert!(upstream.is_live());
    actions(&mut upstream);
    upstream
}

/// Time goes on to the next deadline, and what is asked for then is returned.
fn next(upstream: &mut Upstream, now: &mut Instant) -> Vec<UpstreamAction> {
    *now = upstream.due().expect("something is due").max(*now);
    upstream.on_timeout(*now);
    actions(upstream)
}

fn dispatch(s: u64) -> String {
    format!(r#"{{"t":"TYPING_START","s":{s},"op":0,"d":{{}}}}"#)
}

/// A connection that resumes, up to RESUME being sent.
fn resuming(upstream: &mut Upstream, now: &mut Instant) -> Vec<UpstreamAction> {
    let asked = next(upstream, now);
    assert!(matches!(asked[..], [UpstreamAction::Connect(_)]), "{asked:?}");
    upstream.on_open(*now);
    say(upstream, *now, HELLO);
    actions(upstream)
}

#[test]
fn identify_says_what_the_settings_say() {
    let now = start();
    let mut upstream = with_turn(now, now);
    upstream.on_open(now);
    assert_eq!(actions(&mut upstream), [], "nothing is sent before HELLO");
    say(&mut upstream, now, HELLO);
    let asked = actions(&mut upstream);
    assert_eq!(asked[1..], [UpstreamAction::IdentifySent]);
    let identify = &sent(&asked)[0];
    assert_eq!(identify["op"], 2);
    assert_eq!(identify["d"]["token"], "secret");
    assert_eq!(identify["d"]["shard"], serde_json::json!([2, 5]));
    assert_eq!(identify["d"]["intents"], 513);
    assert_eq!(identify["d"]["presence"]["status"], "idle");
}

#[test]
fn identify_waits_for_its_moment_and_beats_meanwhile() {
    let begin = start();
    let moment = begin + secs(50);
    let mut now = begin;
    let mut upstream = with_turn(begin, moment);
    upstream.on_open(begin);
    say(&mut upstream, begin, HELLO);
    let mut ops = Vec::new();
    while upstream.counts().identifies == 0 {
        ops.extend(sent_ops(&next(&mut upstream, &mut now)));
        say(&mut upstream, now, ACK);
    }
    assert_eq!(now, moment);
    let (identify, beats) = ops.split_last().unwrap();
    assert_eq!(*identify, 2);
    assert!(!beats.is_empty() && beats.iter().all(|it| *it == 1), "{beats:?}");
}

#[test]
fn a_turn_is_returned_when_the_connection_fails_before_identify() {
    let now = start();
    let returned = |upstream: &mut Upstream| actions(upstream).contains(&UpstreamAction::IdentifyReturned);
    let mut refused = with_turn(now, now);
    refused.on_closed(now, None);
    assert!(returned(&mut refused));
    for payload in [RECONNECT, GONE, RESUMABLE] {
        let mut upstream = with_turn(now, now + secs(5));
        upstream.on_open(now);
        say(&mut upstream, now, payload);
        assert!(returned(&mut upstream), "{payload} in place of HELLO");
        let mut upstream = with_turn(now, now + secs(5));
        upstream.on_open(now);
        say(&mut upstream, now, HELLO);
        say(&mut upstream, now, payload);
        assert!(returned(&mut upstream), "{payload} before the moment");
    }
    let mut late = with_turn(now, now);
    late.on_timeout(now + CONNECT_MAX);
    assert!(returned(&mut late));
}

#[test]
fn a_turn_that_comes_uncalled_for_is_returned() {
    let now = start();
    let mut upstream = live(now);
    upstream.on_turn(now, now);
    assert_eq!(actions(&mut upstream), [UpstreamAction::IdentifyReturned]);
}

#[test]
fn no_identify_is_sent_after_the_turn_ran_out() {
    let now = start();
    let mut silent = with_turn(now, now);
    silent.on_open(now + CONNECT_MAX - ms(1));
    assert!(silent.due().unwrap() < now + TURN_HELD_MAX, "it waits for HELLO longer than the turn lasts");
    let mut late = with_turn(now, now);
    late.on_open(now);
    say(&mut late, now + TURN_HELD_MAX, HELLO);
    let asked = actions(&mut late);
    assert_eq!(sent_ops(&asked), [] as [u64; 0]);
    assert!(asked.contains(&UpstreamAction::IdentifyReturned));
}

#[test]
fn a_turn_that_ran_out_while_its_moment_was_waited_for_is_given_up() {
    let now = start();
    let moment = now + secs(10);
    let mut upstream = with_turn(now, moment);
    upstream.on_open(now);
    say(&mut upstream, now, HELLO);
    actions(&mut upstream);
    let late = moment + TURN_HELD_MAX;
    // The whole machine stood still; the beat is due as well.
    upstream.on_timeout(late);
    let asked = actions(&mut upstream);
    assert!(!sent_ops(&asked).contains(&2), "{asked:?}");
    assert!(asked.contains(&UpstreamAction::IdentifyReturned), "{asked:?}");
}

#[test]
fn resume_goes_to_the_resume_host_with_the_same_query_and_before_any_heartbeat() {
    let mut now = start();
    let mut upstream = live(now);
    say(&mut upstream, now, &dispatch(7));
    upstream.on_closed(now, None);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())]);
    upstream.on_open(now);
    assert_eq!(actions(&mut upstream), []);
    say(&mut upstream, now, HELLO);
    let asked = actions(&mut upstream);
    assert_eq!(sent_ops(&asked), [6]);
    let resume = &sent(&asked)[0];
    assert_eq!(resume["d"], serde_json::json!({"token": "secret", "session_id": "abc", "seq": 7}));
}

#[test]
fn what_is_replayed_twice_is_given_out_once() {
    let mut now = start();
    let mut upstream = live(now);
    say(&mut upstream, now, &dispatch(2));
    upstream.on_closed(now, None);
    resuming(&mut upstream, &mut now);
    assert_eq!(say(&mut upstream, now, &dispatch(2)), Received::Handled);
    assert_eq!(say(&mut upstream, now, &dispatch(3)), Received::Dispatch);
    assert_eq!(say(&mut upstream, now, RESUMED), Received::Handled);
    assert_eq!(say(&mut upstream, now, &dispatch(9)), Received::Handled, "RESUMED had this number");
    assert_eq!(say(&mut upstream, now, &dispatch(10)), Received::Dispatch);
    assert_eq!(upstream.counts().repeated, 2);
}

#[test]
fn a_resume_host_that_fails_is_tried_in_turn_with_the_main_host() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    for wanted in [RESUME_HOST, MAIN, RESUME_HOST, MAIN] {
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(wanted.to_owned())]);
        upstream.on_closed(now, None);
    }
}

#[test]
fn a_resume_host_that_greets_and_then_drops_counts_as_failed() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    assert_eq!(sent_ops(&resuming(&mut upstream, &mut now)), [6]);
    upstream.on_closed(now, None);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(MAIN.to_owned())]);
}

#[test]
fn after_resumed_the_resume_host_comes_first_again() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    next(&mut upstream, &mut now);
    upstream.on_closed(now, None);
    resuming(&mut upstream, &mut now);
    say(&mut upstream, now, RESUMED);
    upstream.on_closed(now, None);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())]);
}

#[test]
fn each_close_code_leads_where_the_table_says() {
    let resumes = [1000, 1001, 1005, 1006, 1011, 1012, 3000, 4000, 4001, 4002, 4005, 4008, 4009, 4999];
    for code in resumes {
        let mut now = start();
        let mut upstream = live(now);
        upstream.on_closed(now, Some(CloseCode(code)));
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())], "{code}");
    }
    for code in [4003, 4006, 4007] {
        let begin = start();
        let mut now = begin;
        let mut upstream = live(now);
        upstream.on_closed(now, Some(CloseCode(code)));
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::IdentifyWanted], "{code}");
        assert!(now - begin >= secs(1), "{code}");
    }
    for code in [4004, 4010, 4011, 4012, 4013, 4014] {
        let now = start();
        let mut upstream = live(now);
        upstream.on_closed(now, Some(CloseCode(code)));
        assert_eq!(upstream.stopped(), Some(CloseCode(code)));
        assert_eq!((upstream.due(), actions(&mut upstream)), (None, vec![]), "{code}");
        upstream.on_timeout(now + secs(3600));
        upstream.on_closed(now + secs(3600), None);
        assert_eq!((upstream.due(), actions(&mut upstream)), (None, vec![]), "{code} starts again");
        assert_eq!(upstream.status(), Status::Fatal);
    }
}

#[test]
fn a_fatal_code_after_identify_costs_one_identify() {
    let now = start();
    let mut upstream = identified(now);
    upstream.on_closed(now, Some(CloseCode::AUTHENTICATION_FAILED));
    upstream.on_timeout(now + secs(3600));
    assert_eq!((upstream.counts().identifies, actions(&mut upstream)), (1, vec![]));
}

#[test]
fn op_7_closes_resumably_and_comes_back_soon() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    say(&mut upstream, now, RECONNECT);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert!(!CloseCode::RECONNECTING.ends_session());
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())]);
    assert!(now - begin <= RECONNECT_SPREAD);
}

#[test]
fn a_storm_of_op_7_backs_off() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    for _ in 0..20 {
        say(&mut upstream, now, RECONNECT);
        actions(&mut upstream);
        resuming(&mut upstream, &mut now);
        say(&mut upstream, now, RESUMED);
    }
    assert!(now - begin > secs(60), "20 reconnects within {:?}", now - begin);
}

#[test]
fn op_7_in_place_of_hello_keeps_the_session_and_counts_as_a_failure() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    next(&mut upstream, &mut now);
    upstream.on_open(now);
    say(&mut upstream, now, RECONNECT);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(MAIN.to_owned())]);
}

#[test]
fn op_9_true_waits_and_resumes() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    say(&mut upstream, now, RESUMABLE);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())]);
    assert!(now - begin >= secs(1));
}

#[test]
fn a_resume_host_that_answers_resume_with_op_7_or_9_is_tried_in_turn_with_the_main_host() {
    for refusal in [RECONNECT, RESUMABLE] {
        let mut now = start();
        let mut upstream = live(now);
        say(&mut upstream, now, RECONNECT);
        actions(&mut upstream);
        assert_eq!(sent_ops(&resuming(&mut upstream, &mut now)), [6]);
        say(&mut upstream, now, refusal);
        actions(&mut upstream);
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(MAIN.to_owned())]);
    }
}

#[test]
fn op_9_false_waits_and_identifies_with_a_turn_of_its_own() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    say(&mut upstream, now, GONE);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::IdentifyWanted]);
    assert!(now - begin >= secs(1) && now - begin <= secs(5));
    upstream.on_turn(now, now);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Connect(MAIN.to_owned())]);
}

#[test]
fn a_storm_of_op_9_does_not_become_a_storm_of_identifies() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    for _ in 0..20 {
        say(&mut upstream, now, GONE);
        actions(&mut upstream);
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::IdentifyWanted]);
        upstream.on_turn(now, now);
        upstream.on_open(now);
        say(&mut upstream, now, HELLO);
        actions(&mut upstream);
    }
    assert!(now - begin > secs(180), "20 IDENTIFYs within {:?}", now - begin);
}

#[test]
fn a_beat_without_an_ack_makes_a_zombie_that_is_left_resumably() {
    let mut now = start();
    let mut upstream = live(now);
    let beat = next(&mut upstream, &mut now);
    assert_eq!(sent(&beat), [serde_json::json!({"op": 1, "d": 1})]);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(RESUME_HOST.to_owned())]);
}

#[test]
fn a_beat_that_discord_asks_for_is_sent_at_once() {
    let now = start();
    let mut upstream = live(now);
    say(&mut upstream, now, r#"{"t":null,"s":null,"op":1,"d":null}"#);
    assert_eq!(sent_ops(&actions(&mut upstream)), [1]);
}

#[test]
fn without_an_answer_to_identify_or_resume_it_connects_again() {
    let now = start();
    let mut upstream = identified(now);
    let mut at = now;
    let mut asked = Vec::new();
    while at < now + ANSWER_MAX {
        asked = next(&mut upstream, &mut at);
        say(&mut upstream, at, ACK);
    }
    assert_eq!(asked, [UpstreamAction::Close(CloseCode::RECONNECTING)]);
}

#[test]
fn a_long_replay_is_no_silence() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    resuming(&mut upstream, &mut now);
    for s in 2..10 {
        now += ANSWER_MAX - ms(1);
        say(&mut upstream, now, ACK);
        say(&mut upstream, now, &dispatch(s));
        let resumes_until = now + ANSWER_MAX;
        assert!(matches!(upstream.state, State::Resuming { since } if since + ANSWER_MAX == resumes_until));
    }
}

#[test]
fn what_comes_behind_the_end_of_a_connection_is_not_taken() {
    let now = start();
    let mut upstream = live(now);
    say(&mut upstream, now, RECONNECT);
    assert_eq!(say(&mut upstream, now, &dispatch(2)), Received::Handled);
    upstream.on_closed(now, Some(CloseCode::NORMAL));
    actions(&mut upstream);
    let mut at = now;
    assert_eq!(sent(&resuming(&mut upstream, &mut at))[0]["d"]["seq"], 1);
}

#[test]
fn shut_down_says_the_code_and_nothing_after_it() {
    let now = start();
    let mut upstream = live(now);
    upstream.shut_down(CloseCode::RECONNECTING);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::RECONNECTING)]);
    assert_eq!(upstream.due(), None);
    assert_eq!(upstream.status(), Status::Disconnected, "Discord has refused nothing");
    upstream.on_closed(now, None);
    upstream.on_turn(now, now);
    assert_eq!(actions(&mut upstream), [UpstreamAction::IdentifyReturned]);
}

#[test]
fn a_ready_that_cannot_be_read_costs_the_connection() {
    let now = start();
    let mut upstream = identified(now);
    assert_eq!(say(&mut upstream, now, r#"{"t":"READY","s":1,"op":0,"d":{}}"#), Received::Handled);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::DECODE_ERROR)]);
}

#[test]
fn a_resume_host_dead_for_14_hours_costs_no_identify() {
    let mut now = start();
    let begin = now;
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    let (mut resume_host, mut main_host) = (0, 0);
    while now - begin < secs(14 * 3600) {
        match &next(&mut upstream, &mut now)[..] {
            [UpstreamAction::Connect(url)] if url == RESUME_HOST => resume_host += 1,
            [UpstreamAction::Connect(url)] if url == MAIN => main_host += 1,
            other => panic!("{other:?}"),
        }
        upstream.on_closed(now, None);
    }
    // Half a minute on average between two attempts, from 225 shards 7 a second: a storm for nobody.
    assert!((1000..2500).contains(&(resume_host + main_host)), "{resume_host} and {main_host}");
    assert!(resume_host - main_host <= 1);
    assert_eq!(sent(&resuming(&mut upstream, &mut now))[0]["d"]["session_id"], "abc");
    assert_eq!(upstream.counts().identifies, 1);
}

#[test]
fn retry_after_is_waited_out_before_the_next_attempt() {
    let begin = start();
    for (told, least) in [(secs(0), secs(0)), (secs(90), secs(90)), (secs(u64::MAX / 2), RETRY_AFTER_MAX)] {
        let mut now = begin;
        let mut upstream = live(now);
        upstream.on_closed(now, None);
        assert!(matches!(next(&mut upstream, &mut now)[..], [UpstreamAction::Connect(_)]));
        let refused = now;
        upstream.on_closed(now, None);
        upstream.on_retry_after(now, told);
        assert!(matches!(next(&mut upstream, &mut now)[..], [UpstreamAction::Connect(_)]));
        assert!(now - refused >= least && now - refused <= least + secs(60), "{told:?}");
    }
    let mut upstream = live(begin);
    upstream.on_retry_after(begin, secs(90));
    assert!(upstream.is_live(), "only a failed attempt is put off");
}

#[test]
fn something_unreadable_costs_the_connection_and_not_the_session() {
    let mut now = start();
    let mut upstream = live(now);
    say(&mut upstream, now, &dispatch(2));
    upstream.on_broken(now);
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::DECODE_ERROR)]);
    assert!(!CloseCode::DECODE_ERROR.ends_session());
    assert_eq!(sent(&resuming(&mut upstream, &mut now))[0]["d"]["seq"], 2);
}

#[test]
fn of_one_connection_what_is_unreadable_counts_once() {
    let mut now = start();
    let mut upstream = live(now);
    for _ in 0..3 * BROKEN_MAX {
        upstream.on_broken(now);
    }
    assert_eq!(actions(&mut upstream), [UpstreamAction::Close(CloseCode::DECODE_ERROR)]);
    assert_eq!(upstream.counts().reconnects.0.iter().sum::<u64>(), 1);
    assert_eq!(sent_ops(&resuming(&mut upstream, &mut now)), [6]);
}

#[test]
fn a_replay_that_is_unreadable_each_time_ends_the_session_after_several_attempts() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_broken(now);
    for _ in 1..BROKEN_MAX {
        actions(&mut upstream);
        assert_eq!(sent_ops(&resuming(&mut upstream, &mut now)), [6]);
        upstream.on_broken(now);
    }
    // One that gets further begins the count anew.
    actions(&mut upstream);
    resuming(&mut upstream, &mut now);
    say(&mut upstream, now, &dispatch(2));
    for _ in 0..=BROKEN_MAX {
        upstream.on_broken(now);
        actions(&mut upstream);
        now = upstream.due().unwrap();
        upstream.on_timeout(now);
        let asked = actions(&mut upstream);
        if asked == [UpstreamAction::IdentifyWanted] {
            return;
        }
        upstream.on_open(now);
        say(&mut upstream, now, HELLO);
        actions(&mut upstream);
    }
    panic!("it asks for the same replay for ever");
}

#[test]
fn without_a_resume_url_the_main_host_is_resumed_at() {
    for url in ["", r#","resume_gateway_url":null"#] {
        let mut now = start();
        let mut upstream = identified(now);
        let ready = format!(r#"{{"t":"READY","s":1,"op":0,"d":{{"session_id":"abc"{url}}}}}"#);
        assert_eq!(say(&mut upstream, now, &ready), Received::Ready);
        upstream.on_closed(now, None);
        assert_eq!(next(&mut upstream, &mut now), [UpstreamAction::Connect(MAIN.to_owned())], "{url}");
    }
}

#[test]
fn a_jump_of_the_sequence_is_taken_and_resumed_from() {
    let mut now = start();
    let mut upstream = live(now);
    assert_eq!(say(&mut upstream, now, &dispatch(5)), Received::Dispatch);
    assert_eq!(say(&mut upstream, now, &dispatch(3)), Received::Handled, "a number that was passed is not given out");
    assert_eq!(say(&mut upstream, now, &dispatch(1_000_000)), Received::Dispatch);
    upstream.on_closed(now, None);
    assert_eq!(sent(&resuming(&mut upstream, &mut now))[0]["d"]["seq"], 1_000_000);
}

#[test]
fn a_number_that_discord_cannot_have_counted_to_costs_the_connection() {
    let huge = u64::MAX.to_string();
    for (mut upstream, payload) in [
        (live(start()), dispatch(u64::MAX)),
        (live(start()), format!(r#"{{"t":"RESUMED","s":{huge},"op":0,"d":{{}}}}"#)),
        (identified(start()), READY.replace(r#""s":1"#, &format!(r#""s":{huge}"#))),
    ] {
        assert_eq!(say(&mut upstream, start(), &payload), Received::Handled, "{payload}");
        assert!(actions(&mut upstream).contains(&UpstreamAction::Close(CloseCode::DECODE_ERROR)), "{payload}");
        assert!(upstream.session().is_none_or(|it| it.sequence < 100), "{payload}");
    }
}

#[test]
fn unknown_ops_and_a_second_hello_change_nothing_and_unknown_events_are_passed_on() {
    let now = start();
    let mut upstream = live(now);
    for payload in [
        r#"{"t":null,"s":null,"op":99,"d":{"op":7}}"#,
        r#"{"t":null,"s":null,"op":2,"d":null}"#,
        r#"{"op":18446744073709551616}"#,
        r#"{"t":"TYPING_START","s":9}"#,
        "{}",
        HELLO,
    ] {
        let due = upstream.due();
        assert_eq!(say(&mut upstream, now, payload), Received::Handled, "{payload}");
        assert_eq!((actions(&mut upstream), upstream.due(), upstream.is_live()), (vec![], due, true), "{payload}");
    }
    assert_eq!(say(&mut upstream, now, r#"{"t":"OF_TOMORROW","s":2,"op":0,"d":[]}"#), Received::Dispatch);
}

#[test]
fn a_replay_of_100_000_events_is_given_out_whole_and_in_order() {
    let mut now = start();
    let mut upstream = live(now);
    upstream.on_closed(now, None);
    resuming(&mut upstream, &mut now);
    let mut beats = 0;
    for s in 2..100_002 {
        now += ms(1);
        assert_eq!(say(&mut upstream, now, &dispatch(s)), Received::Dispatch);
        if upstream.due().is_some_and(|due| due <= now) {
            upstream.on_timeout(now);
            // Its ACK comes behind the replay.
            assert_eq!(sent_ops(&actions(&mut upstream)), [1], "at {s}");
            beats += 1;
        }
    }
    assert!(beats >= 2, "100 s with a beat every 40 s");
    say(&mut upstream, now, r#"{"t":"RESUMED","s":100002,"op":0,"d":{}}"#);
    assert_eq!((upstream.is_live(), upstream.counts().repeated), (true, 0));
}
