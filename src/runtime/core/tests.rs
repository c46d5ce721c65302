//! The core without a kernel: a `Net` that remembers what it was asked, and takes from the outboxes what a test lets it take.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use super::clients::{CROWD_MAX, CROWD_WAIT, GREETING_MAX, UNSEATED_OUTBOX_BYTES_MAX};
use super::delivery::STALL_MAX;
use super::gathering::GATHER;
use super::*;
use crate::cache::Shapes;
use crate::runtime::client::{OUTBOX_BYTES_MAX, Request, Seated};
use crate::runtime::link::LinkEvent;
use crate::runtime::net::Traffic;
use crate::runtime::settings::LiveSettings;
use crate::runtime::tls;
use crate::session::client::ClientLimits;
use crate::session::payload::{Identify, Resume, Token as BotToken};
use crate::session::upstream::CONNECT_MAX;
use crate::shard::clients::SEEK_MAX;
use crate::shard::group::LogBudget;
use crate::shard::pressure::Pressure;
use crate::shard::{Shard, properties};
use crate::wire::deframe::{Deframer, Message};
use crate::wire::frame::{Opcode, Role, parse_header, write_frame};
use crate::wire::{Encoder, ShardId, http};

mod keeping;

/// Sockets are numbers here; `waiting` holds those that want to hear of an empty outbox.
#[derive(Default)]
struct Stage {
    next: u64,
    outboxes: BTreeMap<Token, Vec<u8>>,
    waiting: Vec<Token>,
    connects: Vec<(Token, SocketAddr)>,
    closed: Vec<Token>,
    /// Sockets whose reading is stopped.
    unread: Vec<Token>,
    /// The outbox of the socket that was closed last.
    last_words: Vec<u8>,
    left_listeners: bool,
    released: Vec<Token>,
    events: VecDeque<Event>,
    nowhere: Vec<u8>,
    /// As `gather` was told.
    gathering: Duration,
}

impl Stage {
    fn open(&mut self) -> Token {
        self.next += 1;
        let token = Token(1 << crate::runtime::net::SLOT_BITS | self.next);
        self.outboxes.insert(token, Vec::new());
        token
    }
}

impl Net for Stage {
    fn listen(&mut self, _: OwnedFd) -> io::Result<()> {
        Ok(())
    }
    fn stop_listening(&mut self) {}
    fn leave_listeners(&mut self) {
        self.left_listeners = true;
    }
    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        let token = self.open();
        self.connects.push((token, address));
        Ok(token)
    }
    fn add(&mut self, _: OwnedFd) -> io::Result<Token> {
        Ok(self.open())
    }
    fn queue(&mut self, token: Token) -> &mut Vec<u8> {
        self.outboxes.get_mut(&token).unwrap_or(&mut self.nowhere)
    }
    fn pending(&self, token: Token) -> usize {
        self.outboxes.get(&token).map_or(0, Vec::len)
    }
    fn await_drained(&mut self, token: Token) {
        self.waiting.push(token);
    }
    fn set_reading(&mut self, token: Token, reading: bool) {
        self.unread.retain(|it| *it != token);
        if !reading {
            self.unread.push(token);
        }
    }
    fn close(&mut self, token: Token, _: Duration) {
        self.last_words = self.outboxes.remove(&token).unwrap_or_default();
        self.closed.push(token);
    }
    fn release(&mut self, token: Token) {
        self.released.push(token);
    }
    fn watch_mailbox(&mut self, _: OwnedFd) -> io::Result<()> {
        Ok(())
    }
    fn turn(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn gather(&mut self, time: Duration) {
        self.gathering = time;
    }
    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    fn len(&self) -> usize {
        self.outboxes.len()
    }
}

/// A core with one shard, and the end of its mail to the control thread.
fn core(now: Instant) -> (Core<Stage>, mpsc::Receiver<ToControl>) {
    let settings = crate::shard::properties::settings();
    let shared = Shared {
        rules: Rules {
            token: BotToken("secret".to_owned()),
            validate_token: true,
            shards: 0..1,
            shard_count: 1,
            limits: ClientLimits::default(),
        },
        placement: Placement::new(0..1, 1, |_| None),
        upstream_compression: Compression::None,
        allow_compression: true,
        clients_max: 4,
        tls: tls::client_config().unwrap(),
        egress: None,
        backend: "stage",
    };
    let budget = LogBudget { bytes: 64 << 20, keep: Duration::from_secs(3600) };
    let (control, mail_of_control) = mpsc::channel();
    let parts = Parts {
        index: 0,
        net: Stage::default(),
        shared: Arc::new(shared),
        group: Group::new(vec![Shard::new(settings, crate::cache::Shapes::default(), 1, now)], budget),
        mail: mpsc::channel().1,
        control,
        peers: Vec::new(),
        keeping: Keeping::new(None, None),
        client_tls: None,
        seed: 1,
        now,
    };
    (Core::new(parts), mail_of_control)
}

/// The shard gets its turn, and its host resolves to these addresses.
fn connecting(core: &mut Core<Stage>, now: Instant, addresses: &[SocketAddr]) {
    core.on_shard_timeout(now, 0);
    core.on_mail(now, ToCore::IdentifyTurn { shard: ShardId(0), not_before: now });
    core.on_mail(now, resolved("gateway.invalid", Ok(addresses.to_vec())));
}

fn resolved(host: &str, addresses: Result<Vec<SocketAddr>, String>) -> ToCore {
    ToCore::Resolved { shard: ShardId(0), host: host.to_owned(), addresses }
}

fn address(last: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, last), 80).into()
}

/// Discord's session is live, without a connection: what it says is told to the shard alone.
fn live(core: &mut Core<Stage>, now: Instant) {
    connecting(core, now, &[address(1)]);
    let shard = &mut core.group.shards[0];
    shard.on_open(now);
    for payload in [
        r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#,
        r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"a","user":{"id":"1"},"guilds":[]}}"#,
    ] {
        shard.on_payload(now, payload.as_bytes()).unwrap();
    }
    core.run_actions(now, 0);
}

fn message(core: &mut Core<Stage>, now: Instant, s: u64, len: usize) {
    let text = "x".repeat(len);
    let payload = format!(r#"{{"t":"MESSAGE_CREATE","s":{s},"op":0,"d":{{"content":"{text}"}}}}"#);
    core.group.shards[0].on_payload(now, payload.as_bytes()).unwrap();
    core.mark_dirty(0);
}

/// A client with a seat, READY written.
fn seated(core: &mut Core<Stage>, now: Instant) -> Token {
    let token = core.net.open();
    let mut client = Client::new(now, ClientLimits::default().handshake);
    client.open(Compression::None, &mut core.net, token);
    let identify = Identify { token: BotToken("secret".to_owned()), shard: None, intents: 1, compress: false };
    let key = core.group.shards[0].identify(&identify, [7; 12]).unwrap();
    client.seated = Some(Seated { shard: 0, key });
    client.conversation.on_identified(now);
    core.conns.insert(token, Conn::Client(Box::new(client)));
    core.places[0].clients.push((key, token));
    core.mark_dirty(0);
    core.pump_dirty(now);
    core.net.queue(token).clear();
    token
}

fn timers_of_shards(core: &Core<Stage>) -> usize {
    core.timers.iter().filter(|Reverse((_, timer))| matches!(timer, Timer::Shard(_))).count()
}

#[test]
fn a_timer_that_was_overtaken_by_an_earlier_one_does_not_come_back() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    let mut now = begin;
    live(&mut core, now);
    for round in 0..50 {
        // Each round sets a late timer, then an earlier one, and goes on behind both.
        core.group.shards[0].on_closed(now, None);
        core.run_actions(now, 0);
        now += Duration::from_secs(200);
        core.run_timers(now);
        core.group.shards[0].on_open(now);
        core.arm_shard(0);
        let hello = br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#;
        core.group.shards[0].on_payload(now, hello).unwrap();
        core.run_actions(now, 0);
        assert!(timers_of_shards(&core) <= 4, "{} timers after round {round}", timers_of_shards(&core));
    }
}

#[test]
fn a_full_outbox_is_waited_for_also_when_the_kernel_takes_it_at_once() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let token = seated(&mut core, now);
    for s in 2..12 {
        message(&mut core, now, s, 100_000);
    }
    core.pump_dirty(now);
    let mut got = 0;
    while core.net.waiting.pop() == Some(token) {
        assert!(core.net.pending(token) >= OUTBOX_BYTES_MAX);
        got += core.net.pending(token);
        core.net.queue(token).clear();
        core.on_event(now, Event::Drained(token));
    }
    got += core.net.pending(token);
    assert!(got > 1_000_000, "{got} bytes came");
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_closed() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    live(&mut core, begin);
    let token = seated(&mut core, begin);
    for second in 0..3 * STALL_MAX.as_secs() {
        let now = begin + Duration::from_secs(second);
        message(&mut core, now, 2 + second, 100_000);
        core.pump_dirty(now);
        // It reads a tenth of what comes.
        let outbox = core.net.queue(token);
        outbox.drain(..outbox.len().min(10_000));
        core.on_tick(now);
    }
    assert!(!core.net.closed.contains(&token));
}

#[test]
fn a_client_that_does_not_read_is_closed_and_keeps_its_session() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    live(&mut core, begin);
    let token = seated(&mut core, begin);
    for second in 0..STALL_MAX.as_secs() + 5 {
        let now = begin + Duration::from_secs(second);
        message(&mut core, now, 2 + second, 100_000);
        core.pump_dirty(now);
        core.on_tick(now);
    }
    assert!(core.net.closed.contains(&token));
    let report = core.group.shards[0].report(begin);
    assert_eq!((report.clients, report.sessions, report.lagging_closes), (0, 1, 1));
    assert!(core.places[0].clients.is_empty());
}

#[test]
fn an_address_that_does_not_answer_makes_way_for_the_next() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    connecting(&mut core, begin, &[address(1), address(2), address(3)]);
    assert_eq!(core.net.connects.len(), 1);
    for second in 0..CONNECT_MAX.as_secs() {
        core.run_timers(begin + Duration::from_secs(second));
    }
    let tried: Vec<_> = core.net.connects.iter().map(|it| it.1).collect();
    assert_eq!(tried, [address(1), address(2), address(3)]);
    let first = core.net.connects[0].0;
    assert!(core.net.closed.contains(&first));
    let last = core.net.connects[2].0;
    core.on_event(begin + Duration::from_secs(19), Event::Connected(last));
    assert!(core.net.outboxes[&last].starts_with(b"GET /?v=10"));
}

#[test]
fn a_late_answer_for_another_host_is_not_taken() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    core.on_shard_timeout(now, 0);
    core.on_mail(now, ToCore::IdentifyTurn { shard: ShardId(0), not_before: now });
    core.on_mail(now, resolved("resume.invalid", Ok(vec![address(9)])));
    core.on_mail(now, resolved("gateway.invalid", Ok(vec![address(1)])));
    assert_eq!(core.net.connects.iter().map(|it| it.1).collect::<Vec<_>>(), [address(1)]);
}

#[test]
fn a_turn_to_identify_that_came_to_no_address_is_returned_at_once() {
    let now = clock::now();
    let (mut core, mail) = core(now);
    core.on_shard_timeout(now, 0);
    core.on_mail(now, ToCore::IdentifyTurn { shard: ShardId(0), not_before: now });
    core.on_mail(now, resolved("gateway.invalid", Err("no such host".to_owned())));
    assert!(mail.try_iter().any(|it| matches!(it, ToControl::IdentifyReturned { .. })));
}

#[test]
fn who_resumes_takes_the_session_from_the_connection_that_has_it() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let old = seated(&mut core, now);
    let key = core.places[0].clients[0].0;
    let id = core.group.shards[0].session_id(key).unwrap().to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    core.on_event(now, Event::Accepted(socket.into()));
    let new = Token(1 << crate::runtime::net::SLOT_BITS | core.net.next);
    let resume = format!(r#"{{"op":6,"d":{{"token":"secret","session_id":"{id}","seq":1}}}}"#);
    core.with_client(new, |core, client| {
        client.open(Compression::None, &mut core.net, new);
        let mut frame = Vec::new();
        crate::wire::frame::write_frame(&mut frame, crate::wire::frame::Opcode::Text, resume.as_bytes(), Some([1; 4]));
        core.on_client_bytes(now, new, client, &frame)
    });
    core.pump_dirty(now);
    assert_eq!(core.net.closed, [old]);
    assert_eq!(core.places[0].clients, [(key, new)]);
    let sent = String::from_utf8_lossy(&core.net.outboxes[&new]).into_owned();
    assert!(sent.contains(r#"{"t":"RESUMED","s":2,"#), "{sent}");
    // The old connection's late bytes find nobody.
    core.on_event(now, Event::Closed(old, None));
    assert_eq!(core.group.shards[0].report(now).clients, 1);
}

/// A connection from somewhere.
fn accepted(core: &mut Core<Stage>, now: Instant) -> Token {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    core.on_event(now, Event::Accepted(listener.accept().unwrap().0.into()));
    Token(1 << crate::runtime::net::SLOT_BITS | core.net.next)
}

#[test]
fn a_core_gathers_while_it_has_much_to_do() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    for (ms, payloads, gathering) in [(0, 100, Duration::ZERO), (10, 100, GATHER), (20, 1, Duration::ZERO)] {
        core.payloads = payloads;
        core.note_delay(now + Duration::from_millis(ms));
        assert_eq!(core.net.gathering, gathering, "after {ms} ms");
    }
}

#[test]
fn when_all_places_are_taken_the_quietest_that_has_not_identified_makes_way() {
    let begin = clock::now();
    let at = |s| begin + Duration::from_secs(s);
    let (mut core, _mail) = core(begin);
    live(&mut core, begin);
    let bot = seated(&mut core, begin);
    // One socket is the shard's, four are for clients, of which one has a seat.
    let idle: Vec<Token> = (1..4).map(|s| accepted(&mut core, at(s))).collect();
    assert_eq!(core.net.closed, []);
    let late = accepted(&mut core, at(5));
    assert_eq!(core.net.closed, [idle[0]]);
    accepted(&mut core, at(6));
    assert_eq!(core.net.closed, idle[..2]);
    assert_eq!((core.turned_away.silent, core.turned_away.full), (2, 0));
    assert!(core.conns.get(bot).is_some() && core.conns.get(late).is_some());
}

#[test]
fn when_all_places_have_a_seat_the_newest_is_refused() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let bots: Vec<Token> = (0..4).map(|_| seated(&mut core, now)).collect();
    accepted(&mut core, now);
    assert_eq!((core.turned_away.full, core.turned_away.silent), (1, 0));
    assert!(bots.iter().all(|it| core.conns.get(*it).is_some()) && core.net.closed.is_empty());
}

#[test]
fn a_retry_after_of_the_upgrade_puts_the_next_attempt_off() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    connecting(&mut core, begin, &[address(1)]);
    let token = core.net.connects[0].0;
    core.on_event(begin, Event::Connected(token));
    core.on_link_bytes(begin, 0, b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n");
    assert!(core.net.closed.contains(&token));
    assert!(core.group.shards[0].due().unwrap() >= begin + Duration::from_secs(30));
    core.run_timers(begin + Duration::from_secs(29));
    assert!(core.group.shards[0].due().unwrap() >= begin + Duration::from_secs(30), "it went on too soon");
    core.run_timers(begin + Duration::from_secs(91));
    assert_eq!(core.group.shards[0].status(), Status::Identifying);
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

fn says(core: &mut Core<Stage>, now: Instant, token: Token, bytes: &[u8]) {
    core.with_client(token, |core, client| core.on_client_bytes(now, token, client, bytes));
}

#[test]
fn who_pings_without_a_session_and_reads_nothing_is_closed() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    let token = accepted(&mut core, now);
    says(&mut core, now, token, UPGRADE);
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat();
    for sent in 0.. {
        if core.net.closed == [token] {
            break;
        }
        assert!(core.net.pending(token) <= UNSEATED_OUTBOX_BYTES_MAX + 1024 && sent < 1000);
        // Slowly enough for the limit on frames.
        says(&mut core, now + Duration::from_secs(sent), token, &ping);
    }
    assert_eq!(core.turned_away.flood, 1);
}

#[test]
fn a_resume_that_looks_for_its_number_is_given_up_in_time_though_discord_is_away() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let token = seated(&mut core, now);
    let Some(Conn::Client(client)) = core.conns.get(token) else { panic!("it was just seated") };
    let key = client.seated.unwrap().key;
    let shard = &mut core.group.shards[0];
    let session_id = shard.session_id(key).unwrap().to_owned();
    shard.forget_how_far(key);
    shard.on_closed(now, None);
    shard.on_retry_after(now, Duration::from_secs(3000));
    core.run_actions(now, 0);
    let again = core.net.open();
    let mut client = Client::new(now, ClientLimits::default().handshake);
    client.open(Compression::None, &mut core.net, again);
    let resume = Resume { token: BotToken("secret".to_owned()), session_id, seq: 1000 };
    core.conns.insert(again, Conn::Client(Box::new(client)));
    core.with_client(again, |core, client| core.seat(now, again, client, 0, Request::Resume(resume)));
    core.net.queue(again).clear();
    core.run_timers(now + SEEK_MAX);
    assert!(memchr::memmem::find(core.net.queue(again), br#""op":9"#).is_some());
}

#[test]
fn while_memory_is_used_up_upgrades_are_answered_503_and_pages_as_ever() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    core.on_mail(now, ToCore::Pressure(Pressure::Full));
    let refused = accepted(&mut core, now);
    says(&mut core, now, refused, UPGRADE);
    assert_eq!(core.net.closed, [refused]);
    assert!(core.net.last_words.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&core.net.last_words));
    assert_eq!((core.upgrades_refused, core.conns.clients().len()), (1, 0));
    let page = accepted(&mut core, now);
    says(&mut core, now, page, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(core.net.released, [page]);

    core.on_mail(now, ToCore::Pressure(Pressure::Shed));
    let served = accepted(&mut core, now);
    says(&mut core, now, served, UPGRADE);
    assert!(core.net.queue(served).starts_with(b"HTTP/1.1 101 "));
}

#[test]
fn while_memory_is_short_the_client_that_lags_most_is_cut_off_first() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let first = seated(&mut core, now);
    for s in 2..6 {
        message(&mut core, now, s, 100_000);
        core.pump_dirty(now);
    }
    let second = seated(&mut core, now);
    for s in 6..12 {
        message(&mut core, now, s, 100_000);
        core.pump_dirty(now);
    }
    core.on_tick(now);
    assert!(core.net.closed.is_empty());
    core.on_mail(now, ToCore::Pressure(Pressure::Shed));
    core.on_tick(now);
    assert_eq!(core.net.closed, [first]);
    // 4000: its session waits for RESUME.
    assert!(core.net.last_words.windows(2).any(|it| it == 4000u16.to_be_bytes()));
    core.on_tick(now);
    assert_eq!(core.net.closed, [first, second]);
}

#[test]
fn who_is_accepted_while_the_core_drains_is_told_to_try_again() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    let silent = accepted(&mut core, now);
    let drain = ToCore::Drain {
        upstream_close: CloseCode::RECONNECTING,
        within: Duration::from_secs(8),
        leave_listeners: true,
    };
    core.on_mail(now, drain);
    assert!(core.net.left_listeners);
    assert_eq!(core.net.closed, [silent]);
    assert!(core.net.last_words.starts_with(b"HTTP/1.1 503 "));
    let late = accepted(&mut core, now);
    assert_eq!(core.net.closed, [silent, late]);
    assert!(core.net.last_words.starts_with(b"HTTP/1.1 503 "));
}

#[test]
fn new_settings_count_at_once_and_a_new_presence_goes_to_discord_once() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    let bot = seated(&mut core, now);
    let settings = LiveSettings {
        presence: Some(r#"{"status":"idle on {{shard}}"}"#.to_owned()),
        validate_token: false,
        allow_compression: false,
        client_limits: ClientLimits { payloads_per_minute: 120, ..ClientLimits::default() },
        clients_max: 1,
        log_bytes: 1 << 20,
        log_keep: Duration::from_secs(60),
    };
    core.on_mail(now, ToCore::Settings(Box::new(settings.clone())));
    assert!(!core.shared.rules.validate_token && !core.shared.allow_compression);
    assert_eq!((core.shared.rules.limits.payloads_per_minute, core.shared.clients_max), (120, 1));
    assert!(core.conns.get(bot).is_some());
    accepted(&mut core, now);
    assert_eq!(core.turned_away.full, 1);
    // The shard has asked its core to send it; here the core has no connection, so nothing waits any more.
    assert_eq!(core.group.shards[0].report(now).commands_queued, 0);
}

#[test]
fn a_smaller_log_gives_back_what_is_over_it() {
    let now = clock::now();
    let (mut core, _mail) = core(now);
    live(&mut core, now);
    for s in 2..42 {
        message(&mut core, now, s, 100_000);
    }
    assert!(core.group.log_bytes() > 4_000_000);
    core.group.set_budget(now, LogBudget { bytes: 1 << 20, keep: Duration::from_secs(60) });
    assert!(core.group.log_bytes() <= 1 << 20, "{}", core.group.log_bytes());
}

#[test]
fn a_close_of_discords_is_answered_with_a_code_that_keeps_the_session() {
    for (said, answered) in [(4000, 4000), (1001, 4900)] {
        let now = clock::now();
        let (mut core, _mail) = core(now);
        connecting(&mut core, now, &[address(1)]);
        let token = core.net.connects[0].0;
        core.on_event(now, Event::Connected(token));
        let asked = std::mem::take(core.net.queue(token));
        let Ok(Some((http::Request::Upgrade(upgrade), _))) = http::parse_request(&asked) else { panic!("{asked:?}") };
        let mut bytes = http::upgrade_response(&upgrade);
        write_frame(&mut bytes, Opcode::Close, &u16::to_be_bytes(said), None);
        core.on_link_bytes(now, 0, &bytes);
        assert!(core.net.closed.contains(&token));
        let mut answer = core.net.last_words.as_slice();
        let mut deframer = Deframer::new(Role::Server, 4096);
        let Ok(Some(Message::Close { code, .. })) = deframer.next(&mut answer) else { panic!("{answer:?}") };
        assert_eq!(code, Some(CloseCode(answered)));
    }
}

#[test]
fn a_payload_in_a_thousand_messages_comes_whole() {
    let mut link = Link::new("ws://h/", Compression::Zlib, &tls::client_config().unwrap(), None, 1).unwrap();
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    link.on_resolved(vec![address(1)]);
    link.next_address();
    link.on_connected(&mut out).unwrap();
    let Ok(Some((http::Request::Upgrade(upgrade), _))) = http::parse_request(&out) else { panic!("{out:?}") };
    link.on_bytes(&http::upgrade_response(&upgrade), &mut scratch, &mut out, &mut |_| {}).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(1 << 20).collect();
    let (mut message, mut frames) = (Vec::new(), Vec::new());
    Encoder::new(Compression::Zlib).write(&[&payload], &mut message);
    let (_, head_len) = parse_header(&message).unwrap().unwrap();
    message[head_len..].chunks(1 << 10).for_each(|part| write_frame(&mut frames, Opcode::Binary, part, None));
    let mut got = Vec::new();
    for read in frames.chunks(3000) {
        let mut on_event = |event: LinkEvent<'_>| {
            if let LinkEvent::Payload(it) = event {
                got.extend_from_slice(it);
            }
        };
        link.on_bytes(read, &mut scratch, &mut out, &mut on_event).unwrap();
    }
    assert!(got == payload);
}

#[test]
fn however_long_a_turn_has_taken_all_that_is_due_is_done() {
    let begin = clock::now();
    let (mut core, _mail) = core(begin);
    let count = 20;
    core.group = Group::new(
        (0..count).map(|_| Shard::new(properties::settings(), Shapes::default(), 1, begin)).collect(),
        LogBudget { bytes: 64 << 20, keep: Duration::from_secs(60) },
    );
    core.places = (0..count).map(|_| Place::default()).collect();
    let mut shared = (*core.shared).clone();
    shared.placement = Placement::new(0..count as u32, 1, |_| None);
    core.shared = Arc::new(shared);
    // A turn that began long ago, with every shard's beat due.
    let now = begin - Duration::from_secs(1);
    for at in 0..count {
        core.places[at].armed = Some(now);
        core.timers.push(Reverse((now, Timer::Shard(at))));
    }
    core.run_timers(now);
    assert_eq!(core.places.iter().filter(|it| it.armed == Some(now)).count(), 0);
}

#[test]
fn a_crowd_that_comes_back_at_once_is_let_in_and_one_that_says_nothing_is_not() {
    let begin = clock::now();
    let roomy = || {
        let (mut core, mail) = core(begin);
        let mut shared = (*core.shared).clone();
        shared.clients_max = 2 * CROWD_MAX;
        core.shared = Arc::new(shared);
        (core, mail)
    };
    let (mut core, _mail) = roomy();
    let crowd: Vec<Token> = (0..CROWD_MAX).map(|_| accepted(&mut core, begin)).collect();
    assert_eq!(core.net.closed, []);
    accepted(&mut core, begin);
    assert_eq!(core.net.closed, crowd[..1]);
    core.on_tick(begin + CROWD_WAIT - Duration::from_millis(1));
    assert_eq!(core.net.closed, crowd[..1]);
    core.on_tick(begin + CROWD_WAIT);
    assert_eq!(core.conns.greeting(), GREETING_MAX);
    assert_eq!(core.net.closed, crowd[..CROWD_MAX + 1 - GREETING_MAX]);
    let (mut core, _mail) = roomy();
    let silent: Vec<Token> = (0..GREETING_MAX).map(|_| accepted(&mut core, begin)).collect();
    accepted(&mut core, begin + CROWD_WAIT);
    assert_eq!(core.net.closed, silent[..1]);
}
