//! The fake Discord refuses what Discord refuses: each rule once, over a raw connection, by its close code.

mod common;

use std::time::Duration;

use common::raw::{Got, Raw, frame, identify};
use common::{order, stats, with_discord};
use loadtest::discord::Address;
use loadtest::http;
use loadtest::url::Url;
use loadtest::ws;

fn good(shard: u32) -> String {
    identify("Bot fake", &format!(",\"shard\":[{shard},4]"), 1)
}

async fn open(address: &Address, query: &str) -> Raw {
    Raw::open(&address.gateway, &format!("/?{query}")).await
}

const OPTIONS: [&str; 6] = ["--shards", "4", "--guilds", "1", "--max-concurrency", "2"];

#[test]
fn each_broken_rule_has_its_close_code() {
    let long = format!("{{\"op\":1,\"d\":\"{}\"}}", "x".repeat(4096));
    let resume = "{\"op\":6,\"d\":{\"token\":\"nope\",\"session_id\":\"x\",\"seq\":1}}".to_owned();
    let cases: [(Vec<u8>, u16); 11] = [
        (b"{\"op\":99,\"d\":null}".into(), 4001),
        (b"{\"op\":1,".into(), 4002),
        (b"\xFF\xFE".into(), 4002),
        (long.into(), 4002),
        (b"{\"op\":3,\"d\":{}}".into(), 4003),
        (identify("nope", "", 1).into(), 4004),
        (resume.into(), 4004),
        (identify("fake", ",\"shard\":[4,4]", 1).into(), 4010),
        (identify("fake", ",\"shard\":[0,5]", 1).into(), 4010),
        (identify("fake", "", 1).into(), 4011),
        (identify("fake", ",\"shard\":[0,4]", 1 << 40).into(), 4013),
    ];
    with_discord(&OPTIONS, async |address: Address| {
        for (payload, code) in cases {
            let mut raw = open(&address, "v=10").await;
            raw.link.send(&frame(ws::TEXT, &payload));
            assert_eq!(raw.close_code().await, code, "{}", String::from_utf8_lossy(&payload));
        }
        for (query, code) in [("v=11", 4012), ("v=10&encoding=etf", 4002), ("v=10&compress=gzip", 4002)] {
            assert_eq!(open(&address, query).await.close_code().await, code, "{query}");
        }
        let mut raw = open(&address, "v=10").await;
        raw.link.send(&[0x81, 1, b'x']);
        assert_eq!(raw.close_code().await, 1002);
        let counted: u64 =
            stats(&address).await["violations"].as_object().unwrap().values().filter_map(|it| it.as_u64()).sum();
        assert_eq!(counted, 15);
    });
}

#[test]
fn hello_comes_first_and_op_7_or_503_in_its_place_on_demand() {
    with_discord(&OPTIONS, async |address: Address| {
        let Got::Payload(hello) = open(&address, "v=10").await.hear().await else { panic!("no HELLO") };
        assert!(hello.starts_with("{\"t\":null,\"s\":null,\"op\":10,\"d\":{\"heartbeat_interval\":41250,"), "{hello}");
        order(&address, "hello_op7?count=1", "").await;
        let op_7 = "{\"t\":null,\"s\":null,\"op\":7,\"d\":null}".to_owned();
        assert_eq!(open(&address, "v=10").await.hear().await, Got::Payload(op_7));
        order(&address, "refuse?count=1", "").await;
        let link = loadtest::tls::connect(&Url::parse(&address.gateway).unwrap(), None).await.unwrap();
        link.send(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n");
        assert_eq!(http::receive(&link, &mut Vec::new()).await.unwrap().status(), 503);
        open(&address, "v=10").await.until("\"op\":10").await;
    });
}

#[test]
fn two_identifies_of_one_bucket_within_the_interval_get_op_9() {
    with_discord(&OPTIONS, async |address: Address| {
        let mut first = open(&address, "v=10").await;
        first.say(&good(0));
        first.until("\"t\":\"READY\",\"s\":1,").await;
        let mut other_bucket = open(&address, "v=10").await;
        other_bucket.say(&good(1));
        other_bucket.until("\"t\":\"READY\"").await;
        let mut same_bucket = open(&address, "v=10").await;
        same_bucket.say(&good(2));
        same_bucket.until("\"op\":9,\"d\":false").await;
        assert_eq!(stats(&address).await["violations"]["IDENTIFY too soon"], 1);
    });
}

#[test]
fn a_second_identify_a_seq_ahead_and_a_flood_are_closed() {
    with_discord(&["--shards", "4", "--identify-interval-ms", "0"], async |address: Address| {
        let mut raw = open(&address, "v=10").await;
        raw.say(&good(0));
        let ready = raw.until("\"t\":\"READY\"").await;
        let id = ready.split_once("\"session_id\":\"").unwrap().1[..32].to_owned();
        raw.say(&good(0));
        assert_eq!(raw.close_code().await, 4005);
        let resume = |seq| format!("{{\"op\":6,\"d\":{{\"token\":\"fake\",\"session_id\":\"{id}\",\"seq\":{seq}}}}}");
        let mut raw = open(&address, "v=10").await;
        raw.say(&resume(1));
        raw.until("\"t\":\"RESUMED\",\"s\":22,").await;
        let mut raw = open(&address, "v=10").await;
        raw.say(&resume(5000));
        assert_eq!(raw.close_code().await, 4007);
        let mut raw = open(&address, "v=10").await;
        raw.say(&resume(1));
        raw.until("\"op\":9,\"d\":false").await;
        for _ in 0..120 {
            raw.say("{\"op\":1,\"d\":null}");
        }
        assert_eq!(raw.close_code().await, 4008);
    });
}

#[test]
fn a_silent_client_times_out_and_its_session_stays() {
    with_discord(&["--shards", "4", "--heartbeat-interval-ms", "200"], async |address: Address| {
        let mut raw = open(&address, "v=10").await;
        raw.say(&good(0));
        assert_eq!(raw.close_code().await, 4009);
        let stats = stats(&address).await;
        assert_eq!(stats["violations"]["heartbeat late"], 1);
        assert_eq!(stats["shards"][0]["sessions"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn close_1000_ends_the_session_and_4000_keeps_it() {
    with_discord(&["--shards", "4", "--identify-interval-ms", "0"], async |address: Address| {
        for (code, sessions) in [(4000, 1), (1000, 1)] {
            let mut raw = open(&address, "v=10").await;
            raw.say(&good(3));
            raw.until("\"t\":\"READY\"").await;
            let mut frame = Vec::new();
            ws::push_close(&mut frame, code, "", Some([0; 4]));
            raw.link.send(&frame);
            assert_eq!(raw.close_code().await, code);
            while stats(&address).await["closes_received"][code.to_string()] != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(stats(&address).await["shards"][3]["sessions"].as_array().unwrap().len(), sessions, "{code}");
        }
        assert_eq!(stats(&address).await["identifies_avoidable"], 1);
    });
}

#[test]
fn rest_wants_the_token_and_fails_on_demand() {
    async fn get(address: &Address, token: &str) -> http::Message {
        let url = Url::parse(&address.rest).unwrap();
        let link = loadtest::tls::connect(&url, None).await.unwrap();
        link.send(format!("GET /api/v10/gateway/bot HTTP/1.1\r\nAuthorization: {token}\r\n\r\n").as_bytes());
        http::receive(&link, &mut Vec::new()).await.unwrap()
    }
    with_discord(&OPTIONS, async |address: Address| {
        assert_eq!(get(&address, "Bot nope").await.status(), 401);
        let answer = get(&address, "Bot fake").await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status(), &body["shards"]), (200, &4.into()));
        assert_eq!(body["session_start_limit"]["max_concurrency"], 2);
        order(&address, "rest?status=429&count=1&retry_after=2", "").await;
        let answer = get(&address, "Bot fake").await;
        assert_eq!((answer.status(), answer.header("retry-after")), (429, Some("2")));
        assert_eq!(get(&address, "Bot fake").await.status(), 200);
    });
}

#[test]
fn a_stalled_connection_is_late_and_loses_nothing() {
    with_discord(&["--shards", "4"], async |address: Address| {
        let mut raw = open(&address, "v=10").await;
        raw.say(&good(1));
        raw.until("\"t\":\"READY\"").await;
        order(&address, "stall?shard=1&ms=300", "").await;
        order(&address, "emit?shard=1", "{\"t\":\"A\",\"d\":{\"n\":1.50}}").await;
        raw.say("{\"op\":1,\"d\":null}");
        raw.until("{\"t\":\"A\",\"s\":22,\"op\":0,\"d\":{\"n\":1.50}}").await;
        raw.until("\"op\":11").await;
    });
}
