//! One suite for every backend: each function here is a promise of `Net`, and runs over epoll, over the ring, and over
//! a ring that is too small.
//!
//! Peers are plain blocking sockets of std, so that the judge shares no code with what it judges. Nothing here asserts how long
//! something takes; `IDLE_TURNS_MAX` only turns a hang into a failure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use super::{ACCEPTS_MAX, Event, Net, Token};
use crate::runtime::clock;
use crate::runtime::epoll::Epoll;
use crate::runtime::sys;
use crate::runtime::uring::Ring;

/// Few and small, so that every test also runs out of them.
const RING_BUFFERS: u16 = 16;
const RING_BUFFER_BYTES: u32 = 4096;

/// Requests and answers of the ring whose memory is always full.
const TINY: (u32, u32) = (2, 4);

const STEP: Duration = Duration::from_millis(10);
const IDLE_TURNS_MAX: u32 = 3000;
const LONG: Duration = Duration::from_secs(60);

macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        mod on_epoll {
            $(#[test] fn $name() { super::$name(|| super::Epoll::new().unwrap()); })*
        }
        mod on_io_uring {
            $(#[test] fn $name() {
                if super::io_uring_works() {
                    super::$name(|| super::Ring::new(super::RING_BUFFERS, super::RING_BUFFER_BYTES).unwrap());
                }
            })*
        }
        mod on_a_tiny_io_uring {
            $(#[test] fn $name() {
                if super::io_uring_works() {
                    let (submissions, completions) = super::TINY;
                    let (buffers, bytes) = (super::RING_BUFFERS, super::RING_BUFFER_BYTES);
                    super::$name(|| super::Ring::with_sizes(submissions, completions, buffers, bytes).unwrap());
                }
            })*
        }
    };
}

promises!(
    echoes_whatever_the_cuts,
    two_backends_talk_to_each_other,
    a_slow_reader_gets_everything_in_order,
    an_outbox_that_is_taken_at_once_is_drained_where_that_is_awaited,
    what_follows_an_empty_outbox_is_not_slept_over,
    a_turn_that_gathers_sleeps_for_its_time_and_no_longer,
    a_reset_is_reported_once,
    an_end_of_stream_comes_after_the_bytes,
    closing_with_linger_delivers_everything,
    closing_with_linger_ends_at_the_deadline,
    closing_twice_ends_the_linger,
    a_closed_token_is_heard_of_no_more,
    a_released_socket_goes_on_elsewhere,
    a_released_socket_brings_what_was_not_sent,
    a_mailbox_wakes_from_another_thread,
    a_turn_ends_without_events,
    a_refused_connect_is_closed,
    bytes_queued_before_connected_are_sent,
    more_sockets_than_buffers_are_all_served,
    held_chunks_delay_others_and_lose_nothing,
    paused_reading_stops_and_resumes,
    a_broken_connection_is_found_while_reading_is_paused,
    a_flood_does_not_starve_the_others,
    a_quiet_socket_is_heard_before_the_floods_end,
    many_sockets_send_in_one_turn,
    closed_sockets_leave_nothing_open,
    a_listener_can_be_replaced,
    all_listeners_are_accepted_from,
    listeners_that_are_left_go_on_for_whoever_has_a_duplicate,
    closing_listeners_ends_their_duplicates_too,
    dropping_the_backend_closes_its_sockets,
    accepting_goes_on_when_descriptors_are_free_again,
    a_backlog_is_accepted_in_parts,
);

fn echoes_whatever_the_cuts<N: Net>(make: impl Fn() -> N) {
    let (mut net, address) = listening(&make);
    let clients: Vec<_> = (0..8).map(|seed| thread::spawn(move || echo_client(address, seed))).collect();
    let mut closed = 0;
    pump(&mut net, |net, event| {
        match event {
            Event::Accepted(socket) => drop(net.add(socket).unwrap()),
            Event::Read(token, chunk) => net.queue(token).extend_from_slice(&chunk),
            Event::Closed(_, error) => {
                assert!(error.is_none(), "{error:?}");
                closed += 1;
            }
            _ => {}
        }
        closed == 8
    });
    clients.into_iter().for_each(|it| it.join().unwrap());
    assert_eq!(net.len(), 0);
}

fn two_backends_talk_to_each_other<N: Net>(make: impl Fn() -> N) {
    let (mut server, address) = listening(&make);
    let mut client = make();
    let text = pattern(1 << 20, 3);
    let token = client.connect(address).unwrap();
    let (mut got, mut fed, mut connected) = (Vec::new(), 0, false);
    for _ in 0..IDLE_TURNS_MAX {
        server.turn(Some(Duration::ZERO)).unwrap();
        while let Some(event) = server.next() {
            match event {
                Event::Accepted(socket) => drop(server.add(socket).unwrap()),
                Event::Read(from, chunk) => server.queue(from).extend_from_slice(&chunk),
                _ => {}
            }
        }
        client.turn(Some(Duration::from_millis(1))).unwrap();
        while let Some(event) = client.next() {
            match event {
                Event::Connected(which) => connected = which == token,
                Event::Read(_, chunk) => got.extend_from_slice(&chunk),
                other => assert!(matches!(other, Event::Drained(_)), "{other:?}"),
            }
        }
        let more = (fed + 10_000).min(text.len());
        client.queue(token).extend_from_slice(&text[fed..more]);
        fed = more;
        if got.len() == text.len() {
            break;
        }
    }
    assert!(connected);
    assert!(got == text);
}

fn a_slow_reader_gets_everything_in_order<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    let text = pattern(8 << 20, 1);
    let (first, second) = text.split_at(6 << 20);
    net.queue(token).extend_from_slice(first);
    run_dry(&mut net);
    assert!(net.pending(token) > 0, "the kernel swallowed 6 MiB that nobody reads");
    net.queue(token).extend_from_slice(second);
    run_dry(&mut net);
    assert!(net.pending(token) > second.len());

    let wanted = text.len();
    let reader = thread::spawn(move || {
        let (mut got, mut part) = (Vec::new(), vec![0; 50_000]);
        while got.len() < wanted {
            let len = peer.read(&mut part).unwrap();
            assert_ne!(len, 0);
            got.extend_from_slice(&part[..len]);
            if got.len() % 7 == 0 {
                thread::yield_now();
            }
        }
        (got, peer)
    });
    pump(&mut net, |_, event| matches!(event, Event::Drained(it) if it == token));
    assert_eq!(net.pending(token), 0);
    let (got, _peer) = reader.join().unwrap();
    assert!(got == text);
    assert!(net.queue(token).capacity() < 1 << 20, "a burst is not paid for forever");
}

fn an_outbox_that_is_taken_at_once_is_drained_where_that_is_awaited<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    net.queue(token).extend_from_slice(b"few");
    net.await_drained(token);
    pump(&mut net, |_, event| matches!(event, Event::Drained(it) if it == token));
    assert_eq!(net.pending(token), 0);
    peer.read_exact(&mut [0; 3]).unwrap();
    net.queue(token).extend_from_slice(b"more");
    run_dry(&mut net);
    peer.read_exact(&mut [0; 4]).unwrap();
    assert!(events_now(&mut net).is_empty(), "it was awaited once");
}

fn what_follows_an_empty_outbox_is_not_slept_over<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    run_dry(&mut net);
    let began = clock::now();
    net.queue(token).extend_from_slice(b"few");
    net.await_drained(token);
    net.turn(Some(LONG)).unwrap();
    assert!(matches!(net.next(), Some(Event::Drained(it)) if it == token));
    net.queue(token).extend_from_slice(b"last");
    net.close(token, LONG * 2);
    // It goes when it has heard the end, and that wakes the other side.
    let peer = thread::spawn(move || {
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        text
    });
    while !net.is_empty() {
        net.turn(Some(LONG)).unwrap();
        assert!(net.next().is_none(), "a closed token is heard of no more");
    }
    assert_eq!(peer.join().unwrap(), "fewlast");
    assert!(clock::now() - began < LONG, "a turn slept until its end");
}

fn a_turn_that_gathers_sleeps_for_its_time_and_no_longer<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    run_dry(&mut net);
    let time = Duration::from_millis(30);
    net.gather(time);
    net.queue(token).extend_from_slice(b"ping");
    let peer = thread::spawn(move || {
        peer.read_exact(&mut [0; 4]).unwrap();
        peer.write_all(b"pong").unwrap();
        peer
    });
    let began = clock::now();
    let mut read = 0;
    while read < 4 {
        net.turn(Some(LONG)).unwrap();
        // What is to be sent goes before the sleep, or there would be nothing to read; and what comes meanwhile does not end it.
        assert!(clock::now() - began >= time);
        while let Some(Event::Read(_, chunk)) = net.next() {
            read += chunk.len();
        }
    }
    net.gather(LONG);
    net.turn(Some(Duration::from_millis(1))).unwrap();
    assert!(clock::now() - began < LONG, "a turn slept beyond its timeout");
    drop(peer.join().unwrap());
}

fn a_reset_is_reported_once<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, peer) = pair(&mut net);
    net.queue(token).extend_from_slice(b"never read");
    run_dry(&mut net);
    // Closing with unread bytes resets the connection.
    peer.peek(&mut [0]).unwrap();
    drop(peer);
    let mut error = None;
    pump(&mut net, |_, event| match event {
        Event::Closed(it, why) => {
            assert_eq!(it, token);
            error = why;
            true
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(error.map(|it| it.kind()), Some(ErrorKind::ConnectionReset));
    net.queue(token).extend_from_slice(b"to nobody");
    net.set_reading(token, true);
    net.close(token, LONG);
    net.release(token);
    assert!(events_now(&mut net).is_empty());
    assert_eq!((net.len(), net.pending(token)), (0, 0));
}

fn an_end_of_stream_comes_after_the_bytes<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    let text = pattern(100_000, 5);
    peer.write_all(&text).unwrap();
    drop(peer);
    let mut got = Vec::new();
    pump(&mut net, |_, event| match event {
        Event::Read(_, chunk) => {
            got.extend_from_slice(&chunk);
            false
        }
        Event::Closed(it, None) => it == token,
        other => panic!("{other:?}"),
    });
    assert!(got == text);
}

fn closing_with_linger_delivers_everything<N: Net>(make: impl Fn() -> N) {
    // The first goes into the kernel's buffer at once, the second in many steps.
    for len in [200_000, 4 << 20] {
        let mut net = make();
        let (token, mut peer) = pair(&mut net);
        let text = pattern(len, 2);
        net.queue(token).extend_from_slice(&text);
        net.close(token, LONG);
        assert_eq!(net.pending(token), 0, "the token is not the caller's any more");
        run_dry(&mut net);
        // What comes from the peer late must neither be reported nor turn the close into a reset.
        peer.write_all(&pattern(20_000, 9)).unwrap();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            got
        });
        pump_until(&mut net, |net, events| {
            assert!(events.is_empty(), "{events:?}");
            net.is_empty()
        });
        assert!(reader.join().unwrap() == text);
    }
}

fn closing_with_linger_ends_at_the_deadline<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    net.close(token, Duration::from_millis(1));
    pump_until(&mut net, |net, events| {
        assert!(events.is_empty(), "{events:?}");
        net.is_empty()
    });
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

fn closing_twice_ends_the_linger<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, _peer) = pair(&mut net);
    net.close(token, LONG);
    assert!(events_now(&mut net).is_empty());
    assert_eq!(net.len(), 1);
    net.close(token, Duration::ZERO);
    assert_eq!(net.len(), 0);
}

fn a_closed_token_is_heard_of_no_more<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    run_dry(&mut net);
    peer.write_all(b"collected, not taken").unwrap();
    net.turn(Some(LONG)).unwrap();
    net.close(token, Duration::ZERO);
    assert!(net.next().is_none());

    let (second, _peer) = pair(&mut net);
    assert_ne!(token, second, "a token means one socket only");
    net.queue(token).extend_from_slice(b"late");
    assert_eq!((net.pending(token), net.pending(second)), (0, 0));
    assert!(events_now(&mut net).is_empty());
}

fn a_released_socket_goes_on_elsewhere<N: Net>(make: impl Fn() -> N) {
    let text = pattern(4 << 20, 4);
    for take in [0, 1, 5_000, 300_000, 2_000_000] {
        let (mut first, mut second) = (make(), make());
        let (token, mut peer) = pair(&mut first);
        let sent = text.clone();
        let sender = thread::spawn(move || {
            peer.write_all(&sent).unwrap();
            peer
        });
        let (mut got, mut asked, mut moved) = (Vec::new(), false, None);
        pump(&mut first, |net, event| {
            match event {
                Event::Read(_, chunk) => got.extend_from_slice(&chunk),
                Event::Released(it, socket, unsent) => {
                    assert_eq!((it, unsent.len()), (token, 0));
                    moved = Some(socket);
                }
                other => panic!("{other:?}"),
            }
            if got.len() >= take && !asked {
                asked = true;
                net.release(token);
            }
            moved.is_some()
        });
        assert!(events_now(&mut first).is_empty());
        assert_eq!(first.len(), 0);
        second.add(moved.unwrap()).unwrap();
        pump(&mut second, |_, event| {
            if let Event::Read(_, chunk) = event {
                got.extend_from_slice(&chunk);
            }
            got.len() >= text.len()
        });
        assert!(got == text, "released after {take} bytes");
        drop(sender.join().unwrap());
    }
}

fn a_released_socket_brings_what_was_not_sent<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    let text = pattern(8 << 20, 6);
    net.queue(token).extend_from_slice(&text);
    run_dry(&mut net);
    net.release(token);
    let mut rest = Vec::new();
    pump(&mut net, |_, event| match event {
        Event::Released(_, socket, unsent) => {
            rest = unsent;
            drop(socket);
            true
        }
        other => panic!("{other:?}"),
    });
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(!rest.is_empty());
    got.extend(rest);
    assert!(got == text);
}

fn a_mailbox_wakes_from_another_thread<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let mailbox = Arc::new(sys::eventfd().unwrap());
    net.watch_mailbox(mailbox.try_clone().unwrap()).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let waker = thread::spawn(move || {
        for _ in 0..50 {
            sys::eventfd_wake(mailbox.as_raw_fd());
            heard.recv().unwrap();
        }
    });
    for _ in 0..50 {
        loop {
            net.turn(Some(LONG)).unwrap();
            let mut mail = 0;
            while let Some(event) = net.next() {
                assert!(matches!(event, Event::Mail), "{event:?}");
                mail += 1;
            }
            if mail > 0 {
                break;
            }
        }
        told.send(()).unwrap();
    }
    waker.join().unwrap();
    assert!(events_now(&mut net).is_empty(), "the counter was drained");
}

fn a_turn_ends_without_events<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (_token, _peer) = pair(&mut net);
    for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(3)] {
        net.turn(Some(timeout)).unwrap();
        assert!(net.next().is_none());
    }
}

fn a_refused_connect_is_closed<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let token = net.connect(nobody).unwrap();
    net.queue(token).extend_from_slice(b"hello?");
    pump(&mut net, |_, event| match event {
        Event::Closed(it, Some(error)) => {
            assert_eq!((it, error.kind()), (token, ErrorKind::ConnectionRefused));
            true
        }
        other => panic!("{other:?}"),
    });
    assert!(events_now(&mut net).is_empty());
    assert_eq!(net.len(), 0);
}

fn bytes_queued_before_connected_are_sent<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let token = net.connect(listener.local_addr().unwrap()).unwrap();
    net.queue(token).extend_from_slice(b"early");
    pump(&mut net, |_, event| matches!(event, Event::Connected(it) if it == token));
    run_dry(&mut net);
    let mut got = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
}

fn more_sockets_than_buffers_are_all_served<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let count = 4 * usize::from(RING_BUFFERS);
    let mut peers: Vec<_> = (0..count).map(|_| pair(&mut net)).collect();
    let text = pattern(30_000, 7);
    for (_, peer) in &mut peers {
        peer.write_all(&text).unwrap();
    }
    let mut got = std::collections::HashMap::<Token, Vec<u8>>::new();
    let mut left = count * text.len();
    pump_until(&mut net, |_, events| {
        // All chunks of a turn are alive together, so that each turn runs out of buffers.
        for event in events {
            let Event::Read(token, chunk) = event else { panic!("{event:?}") };
            got.entry(*token).or_default().extend_from_slice(chunk);
            left -= chunk.len();
        }
        left == 0
    });
    for (token, _) in &peers {
        assert!(got[token] == text);
    }
}

fn held_chunks_delay_others_and_lose_nothing<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (greedy, mut flood) = pair(&mut net);
    let (modest, mut quiet) = pair(&mut net);
    let text = pattern(usize::from(RING_BUFFERS) * RING_BUFFER_BYTES as usize, 8);
    flood.write_all(&text).unwrap();
    let mut held = Vec::new();
    pump_until(&mut net, |_, events| {
        held.append(events);
        held.iter().map(|it| if let Event::Read(_, chunk) = it { chunk.len() } else { 0 }).sum::<usize>() == text.len()
    });
    quiet.write_all(b"and I?").unwrap();
    flood.write_all(b"more").unwrap();
    let mut meanwhile = events_now(&mut net);
    held.clear();
    let (mut more, mut other) = (Vec::new(), Vec::new());
    pump_until(&mut net, |_, events| {
        for event in meanwhile.drain(..).chain(events.drain(..)) {
            match event {
                Event::Read(it, chunk) if it == greedy => more.extend_from_slice(&chunk),
                Event::Read(it, chunk) if it == modest => other.extend_from_slice(&chunk),
                event => panic!("{event:?}"),
            }
        }
        more == b"more" && other == b"and I?"
    });
}

fn paused_reading_stops_and_resumes<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, mut peer) = pair(&mut net);
    run_dry(&mut net);
    for round in 0..20u8 {
        net.set_reading(token, false);
        run_dry(&mut net);
        peer.write_all(&[round; 10]).unwrap();
        assert!(events_now(&mut net).is_empty());
        // Sending is not affected.
        net.queue(token).push(round);
        run_dry(&mut net);
        let mut echo = [0];
        peer.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [round]);
        net.set_reading(token, true);
        // Changing one's mind twice between turns is changing nothing.
        net.set_reading(token, false);
        net.set_reading(token, true);
        let mut got = Vec::new();
        pump(&mut net, |_, event| match event {
            Event::Read(_, chunk) => {
                got.extend_from_slice(&chunk);
                got.len() == 10
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(got, [round; 10]);
    }
}

fn a_broken_connection_is_found_while_reading_is_paused<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let (token, peer) = pair(&mut net);
    net.queue(token).extend_from_slice(b"never read");
    run_dry(&mut net);
    net.set_reading(token, false);
    run_dry(&mut net);
    peer.peek(&mut [0]).unwrap();
    drop(peer);
    // Not a busy loop and not a word until somebody sends.
    assert!(events_now(&mut net).is_empty());
    net.queue(token).extend_from_slice(b"still there?");
    pump(&mut net, |_, event| matches!(event, Event::Closed(it, Some(_)) if it == token));
    assert_eq!(net.len(), 0);
}

fn a_flood_does_not_starve_the_others<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..3)
        .map(|_| {
            let (_, mut peer) = pair(&mut net);
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) && peer.write_all(&[0; 65_536]).is_ok() {})
        })
        .collect();
    let (token, mut peer) = pair(&mut net);
    let asker = thread::spawn(move || {
        for round in 0..100u8 {
            peer.write_all(&[round]).unwrap();
            let mut echo = [0];
            peer.read_exact(&mut echo).unwrap();
            assert_eq!(echo, [round]);
        }
    });
    pump(&mut net, |net, event| match event {
        Event::Read(it, chunk) if it == token => {
            net.queue(token).extend_from_slice(&chunk);
            false
        }
        Event::Closed(it, _) => it == token,
        _ => false,
    });
    asker.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    drop(net);
    floods.into_iter().for_each(|it| it.join().unwrap());
}

fn a_quiet_socket_is_heard_before_the_floods_end<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let mut peers = Vec::new();
    let mut flood_bytes = 0;
    for _ in 0..8 {
        let (socket, mut peer) = sockets();
        peer.set_nonblocking(true).unwrap();
        flood_bytes += peer.write(&[0; 150_000]).unwrap();
        net.add(socket).unwrap();
        peers.push(peer);
    }
    let (token, mut peer) = pair(&mut net);
    peer.write_all(b"!").unwrap();
    let (mut heard_after, mut got) = (None, 0);
    pump(&mut net, |_, event| {
        let Event::Read(it, chunk) = event else { panic!("{event:?}") };
        got += chunk.len();
        if it == token {
            heard_after = Some(got);
        }
        got == flood_bytes + 1
    });
    // Two turns of the ring; epoll takes more per socket, but once.
    let fair = flood_bytes * 4 / 5;
    assert!(heard_after.is_some_and(|it| it < fair), "{heard_after:?} of {flood_bytes}");
}

fn many_sockets_send_in_one_turn<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let mut peers: Vec<_> = (0..300).map(|_| pair(&mut net)).collect();
    for (number, (token, _)) in peers.iter().enumerate() {
        net.queue(*token).extend_from_slice(&pattern(5_000, number as u64));
    }
    net.turn(Some(Duration::ZERO)).unwrap();
    for (number, (token, peer)) in peers.iter_mut().enumerate() {
        assert_eq!(net.pending(*token), 0);
        let mut got = vec![0; 5_000];
        peer.read_exact(&mut got).unwrap();
        assert!(got == pattern(5_000, number as u64));
    }
}

fn closed_sockets_leave_nothing_open<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let mut opened = Vec::new();
    for round in 0..40 {
        let mut peers = Vec::new();
        for it in 0..50 {
            let (socket, peer) = sockets();
            opened.push(name_of(socket.as_raw_fd()).unwrap());
            let token = net.add(socket).unwrap();
            peers.push((it % 5, token, peer));
        }
        run_dry(&mut net);
        for (kind, token, peer) in &mut peers {
            match *kind {
                0 => net.close(*token, Duration::ZERO),
                1 => net.close(*token, LONG),
                2 => peer.shutdown(std::net::Shutdown::Both).unwrap(),
                3 => {
                    peer.write_all(b"unread").unwrap();
                    net.close(*token, Duration::ZERO);
                }
                _ => {
                    net.set_reading(*token, false);
                    net.queue(*token).extend_from_slice(&vec![1; if round == 0 { 8 << 20 } else { 10 }]);
                    net.release(*token);
                }
            }
        }
        run_dry(&mut net);
        // The other side sees each of them end, so nothing in the kernel holds on to it either.
        for (_, _, peer) in &mut peers {
            let mut sink = Vec::new();
            let _ = peer.read_to_end(&mut sink);
        }
        drop(peers);
        run_dry(&mut net);
        assert_eq!(net.len(), 0, "round {round}");
    }
    let open: std::collections::HashSet<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|it| name_of(it.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    assert_eq!(opened.iter().filter(|it| open.contains(*it)).count(), 0);
}

fn a_listener_can_be_replaced<N: Net>(make: impl Fn() -> N) {
    let (mut net, address) = listening(&make);
    run_dry(&mut net);
    let _collected = TcpStream::connect(address).unwrap();
    net.turn(Some(LONG)).unwrap();
    net.stop_listening();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(events_now(&mut net).is_empty());

    net.listen(sys::listen_on(address).unwrap()).unwrap();
    let mut peer = TcpStream::connect(address).unwrap();
    pump(&mut net, |net, event| {
        let Event::Accepted(socket) = event else { panic!("{event:?}") };
        let token = net.add(socket).unwrap();
        net.queue(token).push(7);
        true
    });
    run_dry(&mut net);
    let mut got = [0];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, [7]);
}

fn all_listeners_are_accepted_from<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let listener = sys::listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        addresses.push(sys::bound_address(&listener).unwrap());
        net.listen(listener).unwrap();
        run_dry(&mut net);
    }
    let peers: Vec<_> = addresses.iter().map(|it| TcpStream::connect(it).unwrap()).collect();
    let mut accepted = 0;
    pump(&mut net, |_, event| {
        accepted += usize::from(matches!(event, Event::Accepted(_)));
        accepted == peers.len()
    });
}

fn listeners_that_are_left_go_on_for_whoever_has_a_duplicate<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let listeners: Vec<_> = (0..2).map(|_| sys::listen_on("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
    for listener in &listeners {
        net.listen(listener.try_clone().unwrap()).unwrap();
    }
    run_dry(&mut net);
    net.leave_listeners();
    pump_until(&mut net, |net, events| {
        assert!(events.is_empty(), "{events:?}");
        net.is_empty()
    });
    for listener in listeners {
        let address = sys::bound_address(&listener).unwrap();
        let mut peer = TcpStream::connect(address).unwrap();
        // Not even with a connection waiting is there anything to wake for.
        assert!(events_now(&mut net).is_empty());
        let mut next = make();
        next.listen(listener).unwrap();
        pump(&mut next, |net, event| {
            let Event::Accepted(socket) = event else { panic!("{event:?}") };
            let token = net.add(socket).unwrap();
            net.queue(token).push(7);
            true
        });
        run_dry(&mut next);
        let mut got = [0];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, [7]);
    }
}

fn closing_listeners_ends_their_duplicates_too<N: Net>(make: impl Fn() -> N) {
    let mut net = make();
    let listener = sys::listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
    net.listen(listener.try_clone().unwrap()).unwrap();
    run_dry(&mut net);
    net.stop_listening();
    let address = sys::bound_address(&listener).unwrap();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The duplicate must not keep the backend awake either.
    let mut turns = 0;
    pump_until(&mut net, |_, events| {
        assert!(events.is_empty(), "{events:?}");
        turns += 1;
        turns == 3
    });
}

fn dropping_the_backend_closes_its_sockets<N: Net>(make: impl Fn() -> N) {
    let (mut net, address) = listening(&make);
    let (_, mut busy) = pair(&mut net);
    let (paused, mut idle) = pair(&mut net);
    net.set_reading(paused, false);
    run_dry(&mut net);
    let mut accepted = TcpStream::connect(address).unwrap();
    busy.write_all(b"collected, not taken").unwrap();
    net.turn(Some(LONG)).unwrap();
    drop(net);
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    for peer in [&mut busy, &mut accepted] {
        // Unread bytes turn the end into a reset.
        assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)));
    }
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// The limit on descriptors belongs to the process, so the test runs itself again in a process of its own.
fn accepting_goes_on_when_descriptors_are_free_again<N: Net>(make: impl Fn() -> N) {
    const ALONE: &str = "SHARDGATE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(ALONE).is_none() {
        let test = thread::current().name().expect("the test harness names its threads").to_owned();
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 60 && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let (mut net, address) = listening(&make);
    let mut peers = Vec::new();
    while let Ok(peer) = TcpStream::connect(address) {
        peers.push(peer);
    }
    assert!(peers.len() > 20, "{}", peers.len());
    assert!(events_now(&mut net).is_empty(), "there is no descriptor left");
    peers.truncate(peers.len() - 5);
    let mut accepted = Vec::new();
    pump(&mut net, |_, event| {
        let Event::Accepted(socket) = event else { panic!("{event:?}") };
        accepted.push(socket);
        accepted.len() == 5
    });
}

// What the promises are made of.

fn io_uring_works() -> bool {
    match Ring::new(1, 4096) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            println!("skipped: this machine refuses io_uring: {error}");
            false
        }
        Err(error) => panic!("io_uring: {error}"),
    }
}

/// A backend that listens on a free port.
fn listening<N: Net>(make: &impl Fn() -> N) -> (N, SocketAddr) {
    let mut net = make();
    let listener = sys::listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sys::bound_address(&listener).unwrap();
    net.listen(listener).unwrap();
    (net, address)
}

/// Two ends of one connection: a non-blocking one for a backend, a blocking one for the test. All come from one listener,
/// because finding a free port for each takes milliseconds after the first few thousand.
fn sockets() -> (OwnedFd, TcpStream) {
    static LISTENER: LazyLock<Mutex<TcpListener>> =
        LazyLock::new(|| Mutex::new(TcpListener::bind("127.0.0.1:0").unwrap()));
    let listener = LISTENER.lock().unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    (socket.into(), peer)
}

fn pair<N: Net>(net: &mut N) -> (Token, TcpStream) {
    let (socket, peer) = sockets();
    (net.add(socket).unwrap(), peer)
}

/// Turns until `done` says so of an event.
fn pump<N: Net>(net: &mut N, mut done: impl FnMut(&mut N, Event) -> bool) {
    let mut idle = 0;
    while idle < IDLE_TURNS_MAX {
        net.turn(Some(STEP)).unwrap();
        idle += 1;
        while let Some(event) = net.next() {
            idle = 0;
            if done(net, event) {
                return;
            }
        }
    }
    panic!("nothing happens any more");
}

/// Turns until `done` says so of the backend and all events of one turn.
fn pump_until<N: Net>(net: &mut N, mut done: impl FnMut(&mut N, &mut Vec<Event>) -> bool) {
    for _ in 0..IDLE_TURNS_MAX {
        net.turn(Some(STEP)).unwrap();
        let mut events: Vec<_> = std::iter::from_fn(|| net.next()).collect();
        if done(net, &mut events) {
            return;
        }
    }
    panic!("it does not come to an end");
}

/// A few turns that do not wait: everything that loopback has delivered already is worked off. Events are dropped.
fn run_dry<N: Net>(net: &mut N) {
    drop(events_now(net));
}

/// The events of such turns.
fn events_now<N: Net>(net: &mut N) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..6 {
        net.turn(Some(Duration::ZERO)).unwrap();
        events.extend(std::iter::from_fn(|| net.next()));
    }
    events
}

/// Bytes that repeat late and differ by seed, so that a loss or a swap shows.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Writes in random pieces while reading what comes back.
fn echo_client(address: SocketAddr, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let text = pattern(random.usize(1..400_000), seed);
    let mut writer = TcpStream::connect(address).unwrap();
    let mut reader = writer.try_clone().unwrap();
    let wanted = text.len();
    let back = thread::spawn(move || {
        let mut got = vec![0; wanted];
        reader.read_exact(&mut got).unwrap();
        got
    });
    let mut at = 0;
    while at < text.len() {
        let end = (at + random.usize(1..20_000)).min(text.len());
        writer.write_all(&text[at..end]).unwrap();
        at = end;
    }
    assert!(back.join().unwrap() == text);
}

/// What a descriptor stands for, such as `socket:[4711]`; the number is not given to another socket.
fn name_of(fd: i32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

fn a_backlog_is_accepted_in_parts<N: Net>(make: impl Fn() -> N) {
    let (mut net, address) = listening(&make);
    let peers: Vec<_> = (0..3 * ACCEPTS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = Vec::new();
    while accepted.len() < peers.len() {
        let before = accepted.len();
        net.turn(Some(STEP)).unwrap();
        while let Some(event) = net.next() {
            if let Event::Accepted(socket) = event {
                accepted.push(socket);
            }
        }
        assert!(accepted.len() - before <= ACCEPTS_MAX, "{} connections in one turn", accepted.len() - before);
    }
}
