//! What the cores say of themselves beside their shards: time, bytes, delays, closes; and what is summed over shards, where a line for each would
//! fill the page.

use std::time::Duration;

use super::{Number, Page};
use crate::control::loads;
use crate::runtime::closes::Closes;
use crate::runtime::delays::{DELAY_BUCKETS, Delays};
use crate::runtime::mesh::{CloseReport, CoreReport};
use crate::session::upstream::Reconnect;

pub(super) fn families(page: &mut Page, cores: &[CoreReport]) {
    page.family(
        "shardgate_core_busy_seconds_total",
        "counter",
        "CPU time that the core's thread has used; its rate is the busy share.",
    );
    for core in cores {
        page.line("shardgate_core_busy_seconds_total", &[("core", &core.core)], &core.busy.as_secs_f64());
    }
    loads(page, cores);
    bytes(page, cores);
    delays(page, cores);
    closes(page, cores);
    reconnects(page, cores);
    if cores.iter().any(|core| core.store.is_some()) {
        const INFLIGHT: &str = "shardgate_store_inflight_bytes";
        page.family(
            INFLIGHT,
            "gauge",
            "Bytes on their way to the disk; from 64 MiB Discord is not read until half is written.",
        );
        for core in cores {
            page.line(INFLIGHT, &[("core", &core.core)], &core.store_inflight_bytes);
        }
    }
}

/// By the estimate that shards are dealt out by, without clients: relayed dispatches and their bytes.
fn loads(page: &mut Page, cores: &[CoreReport]) {
    let loads = loads::by_core(cores);
    let total: u64 = loads.iter().map(|(_, load, _)| load).sum();
    let share = |load: u64| load as f64 / total.max(1) as f64;
    const SHARE: &str = "shardgate_core_load_share";
    page.family(
        SHARE,
        "gauge",
        "The part of all shards' load that this core's shards are, since the start, as estimated.",
    );
    for (core, load, _) in &loads {
        page.line(SHARE, &[("core", core)], &share(*load));
    }
    const LARGEST: &str = "shardgate_core_largest_shard_share";
    page.family(LARGEST, "gauge", "The part of all shards' load that this core's costliest shard is.");
    for (core, _, largest) in &loads {
        page.line(LARGEST, &[("core", core)], &share(*largest));
    }
    let busiest = loads.iter().map(|(_, load, _)| share(*load)).fold(0.0, f64::max);
    page.single(
        "shardgate_core_imbalance_ratio",
        "The load of the busiest core over the mean: 1 is even, the number of cores is all on one; 0 before the first event.",
        &(busiest * loads.len() as f64),
    );
}

/// On the wire as TCP carries it: compressed, and with TLS around it.
fn bytes(page: &mut Page, cores: &[CoreReport]) {
    const RECEIVED: &str = "shardgate_received_bytes_total";
    page.family(RECEIVED, "counter", "Bytes received over TCP, by the other side.");
    for core in cores {
        let traffic = core.traffic;
        page.line(RECEIVED, &[("core", &core.core), ("peer", &"discord")], &traffic.connected.received);
        page.line(RECEIVED, &[("core", &core.core), ("peer", &"clients")], &traffic.added.received);
    }
    const SENT: &str = "shardgate_sent_bytes_total";
    page.family(SENT, "counter", "Bytes sent over TCP, by the other side.");
    for core in cores {
        let traffic = core.traffic;
        page.line(SENT, &[("core", &core.core), ("peer", &"discord")], &traffic.connected.sent);
        page.line(SENT, &[("core", &core.core), ("peer", &"clients")], &traffic.added.sent);
    }
}

/// All cores in one histogram: they do the same work.
fn delays(page: &mut Page, cores: &[CoreReport]) {
    const DELAY: &str = "shardgate_event_delay_seconds";
    page.family(
        DELAY,
        "histogram",
        "From the turn that received a payload of Discord's until all its clients' outboxes had it.",
    );
    let (mut all, mut sum) = (Delays::default(), Duration::ZERO);
    for core in cores {
        all.counts.iter_mut().zip(core.delays.counts).for_each(|(all, count)| *all += count);
        sum += core.delays.sum;
    }
    let mut below = 0;
    for (bound, count) in DELAY_BUCKETS.iter().copied().chain([f64::INFINITY]).zip(all.counts) {
        below += count;
        page.line(&format!("{DELAY}_bucket"), &[("le", &Number(bound))], &below);
    }
    page.line(&format!("{DELAY}_sum"), &[], &sum.as_secs_f64());
    page.line(&format!("{DELAY}_count"), &[], &below);
}

fn closes(page: &mut Page, cores: &[CoreReport]) {
    let sum = |of: fn(&CloseReport) -> &Closes| {
        let mut sum = Closes::default();
        cores.iter().for_each(|core| sum.merge(of(&core.closes)));
        sum.list()
    };
    const TO_DISCORD: &str = "shardgate_upstream_closes_sent_total";
    page.family(TO_DISCORD, "counter", "Connections to Discord that the proxy closed, by close code.");
    for (code, count) in sum(|it| &it.to_discord) {
        page.line(TO_DISCORD, &[("code", &code)], &count);
    }
    const OF_CLIENTS: &str = "shardgate_client_closes_total";
    page.family(
        OF_CLIENTS,
        "counter",
        "Connections of clients that were closed with a close frame, by who sent it and its code; 0 where none was given.",
    );
    for (code, count) in sum(|it| &it.by_clients) {
        page.line(OF_CLIENTS, &[("by", &"client"), ("code", &code)], &count);
    }
    for (code, count) in sum(|it| &it.to_clients) {
        page.line(OF_CLIENTS, &[("by", &"proxy"), ("code", &code)], &count);
    }
}

fn reconnects(page: &mut Page, cores: &[CoreReport]) {
    const RECONNECTS: &str = "shardgate_upstream_reconnects_total";
    page.family(
        RECONNECTS,
        "counter",
        "Connections to Discord, or attempts at one, that ended and were followed by another, by reason: closed (by a close frame), lost (without one), \
         unreachable, zombie (no ACK), silent (no HELLO or answer), op_7, op_9, unreadable, late_turn. Sum over all shards.",
    );
    for (at, reason) in Reconnect::NAMES.iter().enumerate() {
        let sum: u64 = cores.iter().flat_map(|core| &core.shards).map(|shard| shard.reconnects.0[at]).sum();
        page.line(RECONNECTS, &[("reason", reason)], &sum);
    }
}
