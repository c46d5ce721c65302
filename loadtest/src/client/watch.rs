//! `loadtest client`: one client alone, telling once per second what it sees, and at the end whether all was well.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{interval, sleep};

use super::{Client, Order, Settings};
use crate::clock::now_ns;
use crate::tally::Tally;

/// Runs until interrupted, or for `seconds` when that is not 0. Answers whether every promise was kept.
pub async fn watch(settings: Settings, seconds: u64) -> io::Result<bool> {
    let tally = Rc::new(RefCell::new(Tally::new()));
    let client = Client::new(settings, tally.clone(), now_ns());
    let task = spawn_local(client.clone().run());
    let time = if seconds == 0 { Duration::from_secs(u32::MAX.into()) } else { Duration::from_secs(seconds) };
    tokio::select! {
        () = sleep(time) => {}
        _ = tokio::signal::ctrl_c() => {}
        () = show(&client, &tally) => {}
        () = ended(&client) => {}
    }
    client.order(Order::Leave);
    // A client that is not connected cannot say goodbye.
    tokio::time::timeout(Duration::from_secs(1), task).await.ok();
    println!();
    Ok(conclude(&client))
}

async fn ended(client: &Client) {
    let mut tick = interval(Duration::from_millis(200));
    while !client.judge.borrow().findings.counts.contains_key("refused for good") {
        tick.tick().await;
    }
}

async fn show(client: &Client, tally: &RefCell<Tally>) {
    let (lead, tail) = if io::stdout().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    let mut before = 0;
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let (p50, p99) = tally.borrow_mut().take_recent();
        let judge = client.judge.borrow();
        let state = match (client.is_live.get(), judge.is_ready()) {
            (true, true) => "live",
            (true, false) => "waiting for guilds",
            _ => "not connected",
        };
        print!(
            "{lead}{state}, s {}, {} guilds, {} events/s, latency p50 {} µs p99 {} µs, lost {}, findings {}{tail}",
            judge.last_s,
            judge.guilds().len(),
            judge.dispatches - before,
            p50 / 1000,
            p99 / 1000,
            judge.counters.lost(),
            judge.findings.counts.values().sum::<u64>(),
        );
        io::stdout().flush().ok();
        before = judge.dispatches;
    }
}

/// Says what was seen; answers whether nothing was wrong.
fn conclude(client: &Client) -> bool {
    let judge = client.judge.borrow();
    let history = client.history.borrow();
    let counters = &judge.counters;
    let (lost, duplicated, out_of_order) = (counters.lost(), counters.duplicated, counters.out_of_order);
    println!("{} dispatches, {} of them traffic, last s {}", judge.dispatches, judge.delivered, judge.last_s);
    println!("lost {lost}, duplicated {duplicated}, out of order {out_of_order}");
    println!(
        "{} connections, {} identifies, {} resumes, {} heartbeats, {} acknowledged, closes {:?}, drops {}",
        history.connects,
        history.identifies,
        history.resumes,
        history.heartbeats,
        history.heartbeat_acks,
        history.closes,
        history.drops
    );
    for (kind, count) in &judge.findings.counts {
        println!("FOUND {count} × {kind}");
    }
    judge.findings.texts.iter().for_each(|it| println!("  {it}"));
    let kept = judge.findings.is_empty() && lost + duplicated + out_of_order == 0 && judge.dispatches > 0;
    println!("{}", if kept { "every promise was kept" } else { "NOT every promise was kept" });
    kept
}
