//! What the core sends to the store, and what it does without one.

use super::*;
use crate::runtime::core::keeping::{AWAITED_MAX, BATCH_AGE, BEHIND_MAX, INFLIGHT_BYTES_MAX, STANDSTILL_MAX};
use crate::runtime::storage::mail::{Batch, Mail, ToStore};
use crate::runtime::storage::{FIRST_GENERATION, StoreSender};
use crate::store::frame;

/// A record that says from where on the log is needed.
const FLOOR: u8 = 8;

/// A core whose store is the test.
fn keeping(now: Instant) -> (Core<Stage>, mpsc::Receiver<ToControl>, mpsc::Receiver<Mail>) {
    let (mut core, mail_of_control) = core(now);
    let (sender, mail_of_store) = mpsc::channel();
    core.keeping = Keeping::new(Some(StoreSender::new(sender)), Some(FIRST_GENERATION));
    core.group.shards[0].begin_journal();
    (core, mail_of_control, mail_of_store)
}

fn batches(mail: &mpsc::Receiver<Mail>) -> Vec<Batch> {
    let batch = |it: Mail| if let ToStore::Batch(batch) = it.message { Some(batch) } else { None };
    mail.try_iter().filter_map(batch).collect()
}

/// The store has written all that was sent.
fn written(core: &mut Core<Stage>, now: Instant, mail: &mpsc::Receiver<Mail>) {
    for mut batch in batches(mail) {
        batch.empty();
        core.on_mail(now, ToCore::StoreWritten(batch));
    }
}

/// Turns until nothing waits to be sent, each batch written at once.
fn settle(core: &mut Core<Stage>, mut now: Instant, mail: &mpsc::Receiver<Mail>) -> Instant {
    for _ in 0..10 {
        core.keep(now);
        now += BATCH_AGE;
        core.run_timers(now);
        written(core, now, mail);
    }
    core.pump_dirty(now);
    now
}

#[test]
fn events_wait_for_a_batch_and_no_client_waits_for_it() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    let token = seated(&mut core, now);
    let now = settle(&mut core, now, &mail);
    core.net.queue(token).clear();
    for s in 2..5 {
        message(&mut core, now, s, 100);
        core.pump_dirty(now);
        core.keep(now);
    }
    assert!(core.net.pending(token) > 300, "the client has them");
    assert!(batches(&mail).is_empty());
    core.run_timers(now + BATCH_AGE);
    let batches = batches(&mail);
    assert_eq!(batches.len(), 1);
    assert!(!batches[0].is_awaited);
    assert_eq!(frame::records(&batches[0].records).count(), 3);
}

#[test]
fn what_a_shard_journals_in_several_turns_has_one_mark_in_one_batch() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    for s in 2..5 {
        message(&mut core, now, s, 100);
        core.keep(now);
        assert!(core.group.shards[0].journal().unwrap().bytes.is_empty(), "collected with its turn");
    }
    let mark = core.group.shards[0].journal().unwrap().mark;
    core.run_timers(now + BATCH_AGE);
    let sent = batches(&mail);
    assert_eq!(sent[0].marks, [(0, mark)]);
    // Nothing of it is in the next one.
    message(&mut core, now, 5, 100);
    core.keep(now);
    core.run_timers(now + 2 * BATCH_AGE);
    let sent = batches(&mail);
    assert_eq!((frame::records(&sent[0].records).count(), &sent[0].marks[..]), (1, &[(0, mark + 1)][..]));
}

#[test]
fn a_session_is_on_its_way_to_disk_at_once_and_its_ready_follows_when_it_is_there() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    let token = seated(&mut core, now);
    core.keep(now);
    let sent = batches(&mail);
    assert_eq!(sent.len(), 1, "without waiting for the timer");
    assert!(sent[0].is_awaited);
    core.pump_dirty(now);
    assert_eq!(core.net.pending(token), 0);
    for mut batch in sent {
        batch.empty();
        core.on_mail(now, ToCore::StoreWritten(batch));
    }
    core.pump_dirty(now);
    let outbox = core.net.queue(token);
    assert!(memchr::memmem::find(outbox, b"\"t\":\"READY\"").is_some());
}

#[test]
fn when_the_store_is_lost_nothing_waits_any_more() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    let token = seated(&mut core, now);
    core.keep(now);
    assert_eq!(core.net.pending(token), 0);
    core.on_mail(now, ToCore::StoreLost);
    core.pump_dirty(now);
    assert!(core.net.pending(token) > 0);
    assert_eq!(batches(&mail).len(), 1, "what was sent before");
    message(&mut core, now, 2, 100);
    core.keep(now);
    core.run_timers(now + Duration::from_secs(1));
    assert!(batches(&mail).is_empty());
    // A new one gets everything.
    core.on_mail(now, ToCore::StoreBegin { generation: 2 });
    let mail = mail.try_recv().unwrap();
    assert_eq!(mail.generation, 2);
    assert!(matches!(mail.message, ToStore::Batch(batch) if !batch.is_empty()));
}

#[test]
fn a_client_that_was_away_for_longer_than_memory_reads_from_the_disk_without_further_events() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    let token = seated(&mut core, now);
    let now = settle(&mut core, now, &mail);
    for s in 2..6 {
        message(&mut core, now, s, 100_000);
    }
    // All of it goes to the store and out of memory before the client is pumped.
    core.on_mail(now, ToCore::StoreRotate { wal: 2 });
    let mut segments = Vec::new();
    for mut batch in batches(&mail) {
        segments.append(&mut batch.segments);
        batch.empty();
        core.on_mail(now, ToCore::StoreWritten(batch));
    }
    core.group.trim_by_age(now + Duration::from_secs(7200));
    core.net.queue(token).clear();
    core.pump_dirty(now);
    core.run_actions_of_pumping(now);
    let mut reads = 0;
    while let Ok(it) = mail.try_recv() {
        let ToStore::Read { shard, index, .. } = it.message else { continue };
        reads += 1;
        let segment = segments.iter().map(|it| &it.1).find(|it| it.first <= index && index < it.end).cloned();
        core.on_mail(now, ToCore::StoreSegment { shard, index, segment });
        core.pump_dirty(now);
        core.run_actions_of_pumping(now);
        if core.net.waiting.pop() == Some(token) {
            core.net.queue(token).clear();
            core.on_event(now, Event::Drained(token));
            core.run_actions_of_pumping(now);
        }
    }
    assert_eq!(reads, segments.iter().filter(|it| it.1.end > 2).count());
    assert!(!core.net.closed.contains(&token));
    assert!(!core.group.shards[0].has_more(core.places[0].clients[0].0), "it has everything");
}

/// Events until the disk is so far behind that Discord is not read. What was sent to the store.
fn fall_behind(core: &mut Core<Stage>, now: Instant, mail: &mpsc::Receiver<Mail>) -> Vec<Batch> {
    let mut sent = Vec::new();
    for s in 2.. {
        message(core, now, s, 1 << 20);
        core.keep(now);
        sent.append(&mut batches(mail));
        if !core.net.unread.is_empty() {
            break;
        }
    }
    let bytes: usize = sent.iter().map(|it| it.bytes).sum();
    assert!(bytes > INFLIGHT_BYTES_MAX && bytes < INFLIGHT_BYTES_MAX + (4 << 20), "{bytes}");
    sent
}

#[test]
fn while_the_disk_is_far_behind_discord_is_not_read() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let mut now = settle(&mut core, begin, &mail);
    let link = core.places[0].link.as_ref().unwrap().token.unwrap();
    let sent = fall_behind(&mut core, now, &mail);
    assert_eq!(core.net.unread, [link]);
    let mut left: usize = sent.iter().map(|it| it.bytes).sum();
    for mut batch in sent {
        // As slow as it is, it writes.
        now += BEHIND_MAX / 100;
        core.keep_by_age(now);
        left -= batch.bytes;
        batch.empty();
        core.on_mail(now, ToCore::StoreWritten(batch));
        assert_eq!(core.net.unread.is_empty(), left <= INFLIGHT_BYTES_MAX / 2, "{left}");
    }
    assert!(core.group.shards[0].journal().is_some());
}

#[test]
fn a_disk_that_is_behind_and_writes_nothing_counts_as_lost() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    fall_behind(&mut core, now, &mail);
    core.keep_by_age(now + STANDSTILL_MAX - Duration::from_millis(1));
    assert!(core.group.shards[0].journal().is_some());
    core.keep_by_age(now + STANDSTILL_MAX);
    assert!(mail.try_iter().any(|it| matches!(it.message, ToStore::TooSlow)));
    assert!(core.group.shards[0].journal().is_none());
    assert_eq!(core.net.unread, []);
}

#[test]
fn a_disk_that_keeps_discord_unread_for_too_long_counts_as_lost_though_it_writes() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let mut now = settle(&mut core, begin, &mail);
    let sent = fall_behind(&mut core, now, &mail);
    let until = now + BEHIND_MAX;
    for mut batch in sent.into_iter().take(4) {
        now += BEHIND_MAX / 5;
        core.keep_by_age(now);
        batch.empty();
        core.on_mail(now, ToCore::StoreWritten(batch));
    }
    assert!(core.group.shards[0].journal().is_some());
    core.keep_by_age(until);
    assert!(core.group.shards[0].journal().is_none());
    assert_eq!(core.net.unread, []);
}

#[test]
fn a_disk_that_does_not_write_what_a_client_waits_for_counts_as_lost() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let mut now = settle(&mut core, begin, &mail);
    // What nobody waits for may take its time.
    message(&mut core, now, 2, 100);
    core.keep(now);
    core.run_timers(now + BATCH_AGE);
    let unwritten = batches(&mail);
    assert!(!unwritten.is_empty());
    now += 2 * AWAITED_MAX;
    core.keep_by_age(now);
    assert!(core.group.shards[0].journal().is_some());
    let token = seated(&mut core, now);
    core.keep(now);
    core.keep_by_age(now + AWAITED_MAX - Duration::from_millis(1));
    assert_eq!(core.net.pending(token), 0);
    core.keep_by_age(now + AWAITED_MAX);
    assert!(core.group.shards[0].journal().is_none());
    core.pump_dirty(now + AWAITED_MAX);
    assert!(core.net.pending(token) > 0, "it has its READY");
}

#[test]
fn a_rotation_tells_floors_that_its_own_records_say() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    let shard = &mut core.group.shards[0];
    let mut s = 1;
    for round in 0..3 {
        for id in 1..5_u64 {
            s += 1;
            let padding = "x".repeat(200 << 10);
            let guild = format!(
                r#"{{"t":"GUILD_CREATE","s":{s},"op":0,"d":{{"id":"{id}","n":{round},"description":"{padding}"}}}}"#
            );
            shard.on_payload(now, guild.as_bytes()).unwrap();
        }
    }
    core.on_mail(now, ToCore::StoreRotate { wal: 7 });
    let said: Vec<ToStore> = mail.try_iter().map(|it| it.message).collect();
    let [ToStore::Batch(batch), ToStore::Rotated { floors, .. }] = &said[..] else { panic!("{said:?}") };
    assert!(batch.states.len() > 1, "the second checkpoint raises the floor, and says so in the next batch");
    let floor = frame::records(&batch.records).filter(|it| it.kind == FLOOR).last().unwrap();
    assert_eq!(floor.payload, floors[0].1.to_le_bytes());
    assert!(core.group.shards[0].floor() > floors[0].1);
}

#[test]
fn a_rotation_is_answered_after_everything_was_written_anew() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    live(&mut core, begin);
    let now = settle(&mut core, begin, &mail);
    message(&mut core, now, 2, 100);
    core.on_mail(now, ToCore::StoreRotate { wal: 7 });
    let said: Vec<ToStore> = mail.try_iter().map(|it| it.message).collect();
    let [ToStore::Batch(batch), ToStore::Rotated { core: 0, wal: 7, floors }] = &said[..] else { panic!("{said:?}") };
    assert!(!batch.records.is_empty());
    assert_eq!(batch.segments.len(), 1, "the log is sealed");
    assert_eq!(floors[0].0, ShardId(0));
}

#[test]
fn the_core_ends_when_the_store_has_the_last_batch_or_its_time_is_over() {
    let begin = clock::now();
    let (mut core, _control, mail) = keeping(begin);
    assert!(!core.end_keeping(begin, begin));
    let said: Vec<ToStore> = mail.try_iter().map(|it| it.message).collect();
    assert!(matches!(&said[..], [ToStore::Batch(_), ToStore::CoreEnded { .. }]), "{said:?}");
    assert!(!core.end_keeping(begin, begin));
    assert!(core.end_keeping(begin + Duration::from_secs(60), begin));
    core.on_mail(begin, ToCore::StoreEnded);
    assert!(core.end_keeping(begin, begin));
    // Without a store there is nothing to wait for.
    let (mut core, _control) = super::core(begin);
    assert!(core.end_keeping(begin, begin));
}
