//! Odd clients: each gets the close code that Discord would send or, where libraries are known to do it, what it wants.
//! The proxy goes on serving another client, and nothing of it reaches Discord.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, backends};
use common::raw::{Got, Raw, fragment, frame, good, identify, resume, text, upgrade};
use common::{order, stats, with_discord};
use loadtest::client::Client;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::run::proc::Usage;
use loadtest::ws;
use serde_json::json;

const SHARDS: u32 = 2;
/// What an odd client may cost at most, once and for all.
const RSS_BYTES_MAX: u64 = 16 << 20;

/// A running proxy, and a client that must not notice the odd ones beside it.
struct Bench {
    discord: Address,
    proxy: Proxy,
    witness: Rc<Client>,
    /// Events that have happened on the witness's shard.
    events: Cell<u64>,
}

fn on_each_backend(test: impl AsyncFn(&Bench)) {
    for backend in backends() {
        with_discord(&["--shards", "2", "--guilds", "2", "--members", "3"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let witness = judged::start(judged::settings(&proxy.url, [0, SHARDS], Compression::None));
            judged::ready(&witness).await;
            let bench = Bench { discord, proxy, witness, events: Cell::new(0) };
            test(&bench).await;
            bench.unharmed().await;
            bench.proxy.stop().await;
        });
    }
}

impl Bench {
    /// An event still reaches the other client, and Discord has heard nothing.
    async fn unharmed(&self) {
        order(&self.discord, "burst?shard=0&events=1", "").await;
        self.events.set(self.events.get() + 1);
        has(&self.witness, self.events.get()).await;
        assert_faultless(&self.witness);
        let stats = stats(&self.discord).await;
        assert_eq!((&stats["commands"], &stats["violations"]), (&json!({}), &json!({})), "{stats}");
        assert_eq!((&stats["identifies"], &stats["upgrades"]), (&SHARDS.into(), &SHARDS.into()));
    }

    async fn open(&self) -> Raw {
        Raw::open(&self.proxy.url, "/?v=10&encoding=json").await
    }

    /// A client whose session has begun. Answers its session's id and last number as well.
    async fn identified(&self) -> (Raw, String, u64) {
        let mut raw = Raw::saying(&self.proxy.url, &good(1, SHARDS)).await;
        let (ready, seq) = raw.ready().await;
        let id = ready["session_id"].as_str().unwrap().to_owned();
        (raw, id, seq)
    }
}

#[test]
fn frames_that_break_rfc_6455_or_a_limit_are_closed_by_their_code() {
    let claim = |len: u64| [&[0x82, 0xFF][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("not UTF-8", frame(ws::TEXT, b"\xFF\xFE\xFD"), 4002),
        ("a claim of 2^62 bytes", claim(1 << 62), 4002),
        ("4097 bytes", frame(ws::TEXT, &[b' '; 4097]), 4002),
        ("fragments of 4097 bytes", [fragment(ws::TEXT, &[b' '; 4000]), frame(0, &[b' '; 97])].concat(), 4002),
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("RSV1", frame(0x40 | ws::TEXT, b"{}"), 1002),
        ("RSV2", frame(0x20 | ws::TEXT, b"{}"), 1002),
        ("RSV3", frame(0x10 | ws::PING, b""), 1002),
        ("opcode 3", frame(0x3, b"{}"), 1002),
        ("opcode 11", frame(0xB, b""), 1002),
        ("a ping in fragments", fragment(ws::PING, b""), 1002),
        ("a ping of 126 bytes", frame(ws::PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(ws::CONTINUATION, b"{}"), 1002),
        ("a message inside a message", [fragment(ws::TEXT, b"{"), frame(ws::TEXT, b"{}")].concat(), 1002),
        ("half a close code", frame(ws::CLOSE, &[3]), 1002),
        ("close code 1005", frame(ws::CLOSE, &1005u16.to_be_bytes()), 1002),
        (
            "empty fragments without end",
            [fragment(ws::TEXT, b""), fragment(ws::CONTINUATION, b"").repeat(200)].concat(),
            1008,
        ),
    ];
    on_each_backend(async |bench| {
        for (name, bytes, code) in &cases {
            let mut stranger = bench.open().await;
            stranger.link.send(bytes);
            assert_eq!(stranger.close_code().await, *code, "{name}, before IDENTIFY");
            let (mut client, ..) = bench.identified().await;
            client.link.send(bytes);
            assert_eq!(client.close_code().await, *code, "{name}, after IDENTIFY");
            bench.unharmed().await;
        }
    });
}

#[test]
fn a_frame_of_64_mib_costs_no_memory() {
    on_each_backend(async |bench| {
        let before = Usage::of(bench.proxy.process.pid).rss_peak_bytes;
        let mut stranger = bench.open().await;
        stranger.link.send(&frame(ws::BINARY, &vec![b' '; 64 << 20]));
        assert_eq!(stranger.close_code().await, 4002);
        bench.unharmed().await;
        let grown = Usage::of(bench.proxy.process.pid).rss_peak_bytes - before;
        assert!(grown < RSS_BYTES_MAX, "{grown} bytes");
    });
}

#[test]
fn payloads_that_discord_would_refuse_get_its_close_codes() {
    let deep = format!("{{\"op\":3,\"d\":{}{}}}", "[".repeat(1500), "]".repeat(1500));
    let wrong_resume = "{\"op\":6,\"d\":{\"token\":\"nope\",\"session_id\":\"x\",\"seq\":1}}".to_owned();
    let no_seq = "{\"op\":6,\"d\":{\"token\":\"fake\",\"session_id\":\"x\",\"seq\":-1}}".to_owned();
    let command = "{\"op\":4,\"d\":{\"guild_id\":\"1\",\"channel_id\":null,\"self_mute\":false,\"self_deaf\":false}}";
    let shard = |pair: &str| identify("fake", &format!(",\"shard\":{pair}"), 1);
    let cases: Vec<(String, u16)> = vec![
        ("{\"op\":1,".into(), 4002),
        ("[]".into(), 4002),
        ("".into(), 4002),
        ("{\"d\":null}".into(), 4002),
        ("{\"op\":\"one\",\"d\":null}".into(), 4002),
        ("{\"op\":1,\"op\":1,\"d\":null}".into(), 4002),
        (deep, 4002),
        ("{\"op\":99,\"d\":null}".into(), 4001),
        ("{\"op\":0,\"d\":{},\"s\":1,\"t\":\"READY\"}".into(), 4001),
        ("{\"op\":11,\"d\":null}".into(), 4001),
        ("{\"op\":3,\"d\":{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}}".into(), 4003),
        (command.into(), 4003),
        ("{\"op\":8,\"d\":{\"guild_id\":\"1\",\"query\":\"\",\"limit\":0}}".into(), 4003),
        (identify("nope", ",\"shard\":[1,2]", 1), 4004),
        (identify("", ",\"shard\":[1,2]", 1), 4004),
        (wrong_resume, 4004),
        (no_seq, 4007),
        (shard("[2,2]"), 4010),
        (shard("[4294967295,2]"), 4010),
        (shard("[0,3]"), 4010),
        (shard("[0,0]"), 4010),
        (shard("[-1,2]"), 4010),
        (shard("[0]"), 4010),
        // Absent means [0,1].
        (identify("fake", "", 1), 4010),
        ("{\"op\":2,\"d\":{\"token\":\"fake\",\"properties\":{},\"shard\":[0,2]}}".into(), 4013),
    ];
    on_each_backend(async |bench| {
        for (payload, code) in &cases {
            let mut stranger = bench.open().await;
            stranger.say(payload);
            assert_eq!(stranger.close_code().await, *code, "{payload}");
            bench.unharmed().await;
        }
    });
}

#[test]
fn an_identified_client_is_refused_as_well() {
    let cases: Vec<(String, u16)> = vec![
        (good(1, SHARDS), 4005),
        (resume("0123456789abcdef0123456789abcdef", 1), 4005),
        ("{\"op\":99,\"d\":null}".into(), 4001),
        ("{\"op\":3,\"d\":".into(), 4002),
        ("{\"op\":3,\"d\":{\"since\":null,\"activities\":[],\"status\":\"dead\",\"afk\":false}}".into(), 4002),
        ("{\"op\":4,\"d\":{\"guild_id\":{},\"channel_id\":null}}".into(), 4002),
        ("{\"op\":8,\"d\":{\"guild_id\":\"1\"}}".into(), 4002),
        ("{\"op\":31,\"d\":{\"guild_ids\":\"1\"}}".into(), 4002),
        ("{\"op\":43,\"d\":[]}".into(), 4002),
        (format!("{{\"op\":8,\"d\":{{\"guild_id\":\"1\",\"query\":\"{}\"}}}}", "x".repeat(4096)), 4002),
    ];
    on_each_backend(async |bench| {
        for (payload, code) in &cases {
            let (mut client, ..) = bench.identified().await;
            client.say(payload);
            assert_eq!(client.close_code().await, *code, "{payload}");
            bench.unharmed().await;
        }
        let (mut client, ..) = bench.identified().await;
        client.link.send(&text("{\"op\":1,\"d\":null}").repeat(300));
        assert_eq!(client.close_code().await, 4008, "a flood");
    });
}

#[test]
fn identify_is_taken_however_it_comes() {
    let plain = good(1, SHARDS);
    let (head, tail) = plain.split_at(20);
    let (middle, tail) = tail.split_at(1);
    let pieces = [
        fragment(ws::TEXT, head.as_bytes()),
        frame(ws::PING, b"hi"),
        fragment(ws::CONTINUATION, b""),
        fragment(ws::CONTINUATION, middle.as_bytes()),
        frame(ws::CONTINUATION, tail.as_bytes()),
    ];
    let spaced = "\n{ \"d\" : {\"intents\":1.0,\"op\":9,\"shard\":[1, 2],\"extra\":{\"op\":1},\"token\":\"fake\",\
                  \"properties\":{\"$os\":\"x\"},\"compress\":true} , \"op\" : 2 }\t";
    let after_beats = [
        text("{\"op\":1,\"d\":null}"),
        text("{\"op\":1,\"d\":0}"),
        text("{\"op\":1,\"d\":-1}"),
        text("{\"op\":40,\"d\":{\"seq\":null,\"qos\":{}}}"),
        text(&plain),
    ];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("in fragments around a ping", pieces.concat()),
        ("in a binary frame", frame(ws::BINARY, plain.as_bytes())),
        ("with the prefix", text(&identify("Bot fake", ",\"shard\":[1,2]", 1))),
        ("with spaces, other order and more keys", text(spaced)),
        ("after heartbeats", after_beats.concat()),
    ];
    on_each_backend(async |bench| {
        for (name, bytes) in &cases {
            // With the upgrade, before the answer or HELLO can have been read.
            let url = &bench.proxy.url;
            let mut early = Raw::connect(url, &[upgrade("/?v=10", "").as_bytes(), bytes].concat()).await;
            assert_eq!(early.answer().await.status(), 101);
            assert_eq!(early.ready().await.0["shard"], json!([1, SHARDS]), "{name}, before HELLO");
            let mut late = bench.open().await;
            late.until("\"op\":10,").await;
            for byte in bytes.chunks(1) {
                late.link.send(byte);
            }
            assert_eq!(late.ready().await.0["shard"], json!([1, SHARDS]), "{name}, byte by byte");
            bench.unharmed().await;
        }
    });
}

#[test]
fn a_missing_shard_is_the_only_one_there_is() {
    with_discord(&["--shards", "1", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let mut raw = Raw::saying(&proxy.url, &identify("fake", "", 1)).await;
        assert_eq!(raw.ready().await.0["shard"], json!([0, 1]));
        proxy.stop().await;
    });
}

#[test]
fn heartbeats_and_pings_are_answered_before_identify() {
    on_each_backend(async |bench| {
        let mut raw = bench.open().await;
        let Got::Payload(hello) = raw.hear().await else { panic!("no HELLO") };
        assert!(hello.starts_with("{\"t\":null,\"s\":null,\"op\":10,\"d\":{\"heartbeat_interval\":41250"), "{hello}");
        for d in ["null", "0", "-1", "251"] {
            raw.say(&format!("{{\"op\":1,\"d\":{d}}}"));
            let ack = "{\"t\":null,\"s\":null,\"op\":11,\"d\":null}".to_owned();
            assert_eq!(raw.hear().await, Got::Payload(ack), "{d}");
        }
        raw.link.send(&frame(ws::PING, b"are you there"));
        assert_eq!(raw.hear().await, Got::Pong(b"are you there".to_vec()));
        raw.link.send(&frame(ws::PONG, b"nobody asked"));
        raw.say(&good(1, SHARDS));
        raw.ready().await;
    });
}

#[test]
fn any_path_and_query_is_a_gateway() {
    on_each_backend(async |bench| {
        for target in
            ["/", "//", "/?v=10", "//?v=10&encoding=json", "?v=10", "/any/path?encoding=json&v=9", "/?compress=x"]
        {
            let mut raw = Raw::open(&bench.proxy.url, target).await;
            raw.say(&good(1, SHARDS));
            raw.ready().await;
        }
        for (target, code) in
            [("/?v=5", 4012), ("/?v=11", 4012), ("/?v=x", 4012), ("/?encoding=etf", 4002), ("/?encoding=x", 4002)]
        {
            assert_eq!(Raw::open(&bench.proxy.url, target).await.close_code().await, code, "{target}");
        }
    });
}

#[test]
fn extensions_are_not_negotiated_and_other_http_is_answered() {
    let key = "Sec-WebSocket-Key: AQEBAQEBAQEBAQEBAQEBAQ==\r\n";
    let upgrade_with = |line: &str, version: &str, key: &str| {
        format!("{line}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: {version}\r\n{key}\r\n")
    };
    let refused: Vec<(String, u16)> = vec![
        (upgrade_with("GET / HTTP/1.1", "13", ""), 400),
        (upgrade_with("GET / HTTP/1.1", "8", key), 426),
        (upgrade_with("POST / HTTP/1.1", "13", key), 405),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000)), 431),
        ("{\"op\":1}\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 404),
    ];
    on_each_backend(async |bench| {
        let url = &bench.proxy.url;
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let mut raw = Raw::connect(url, upgrade("/", offer).as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status(), answer.header("sec-websocket-extensions")), (101, None));
        raw.say(&good(1, SHARDS));
        raw.ready().await;
        for (request, status) in &refused {
            let mut raw = Raw::connect(url, request.as_bytes()).await;
            assert_eq!(raw.answer().await.status(), *status, "{request}");
            bench.unharmed().await;
        }
    });
}

#[test]
fn an_unknown_session_is_told_so_and_may_identify_on_the_same_connection() {
    on_each_backend(async |bench| {
        for id in ["", "x", "0123456789abcdef0123456789abcdef", "00000001000000000000000000000000", "ä"] {
            let mut raw = Raw::saying(&bench.proxy.url, &resume(id, 1)).await;
            raw.until("{\"t\":null,\"s\":null,\"op\":9,\"d\":false}").await;
            raw.say(&resume(id, 0));
            raw.until("{\"t\":null,\"s\":null,\"op\":9,\"d\":false}").await;
            raw.say(&good(1, SHARDS));
            raw.ready().await;
        }
    });
}

#[test]
fn resume_with_a_number_that_was_never_sent_is_4007() {
    on_each_backend(async |bench| {
        let (client, id, seq) = bench.identified().await;
        client.close(4000);
        let mut ahead = Raw::saying(&bench.proxy.url, &resume(&id, seq + 1)).await;
        assert_eq!(ahead.close_code().await, 4007);
    });
}

#[test]
fn a_clients_own_close_code_is_echoed_and_decides_about_its_session() {
    on_each_backend(async |bench| {
        for (code, is_kept) in [(1000, false), (1001, false), (4000, true), (4200, true), (1002, true), (3000, true)] {
            let (mut client, id, seq) = bench.identified().await;
            client.close(code);
            assert_eq!(client.close_code().await, code);
            let mut back = Raw::saying(&bench.proxy.url, &resume(&id, seq)).await;
            let wanted =
                if is_kept { format!("{{\"t\":\"RESUMED\",\"s\":{},", seq + 1) } else { "\"op\":9,\"d\":false".into() };
            back.until(&wanted).await;
        }
        let (client, id, seq) = bench.identified().await;
        client.link.cut();
        drop(client);
        Raw::saying(&bench.proxy.url, &resume(&id, seq)).await.until("{\"t\":\"RESUMED\",").await;
    });
}

#[test]
fn a_second_resume_takes_the_session_from_the_first_connection() {
    on_each_backend(async |bench| {
        let (mut first, id, seq) = bench.identified().await;
        let mut second = Raw::saying(&bench.proxy.url, &resume(&id, seq)).await;
        second.until("{\"t\":\"RESUMED\",").await;
        assert_eq!(first.close_code().await, 4000);
        order(&bench.discord, "emit?shard=1", "{\"t\":\"TYPING_START\",\"d\":{\"to\":\"the second\"}}").await;
        second.until("\"to\":\"the second\"").await;
    });
}
