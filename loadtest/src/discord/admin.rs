//! `/fake/...`: faults and events on demand, and what was seen. For tests and for trying things by hand.
//!
//! `POST drop?shard=N|all&events=M` cuts TCP, then M events happen on each of them; `op7`, `op1`,
//! `op9?resumable=true`, `close?code=C`, `stall?ms=T`, `burst?events=M` take the same `shard`, and so do
//! `half_open` (Discord has forgotten the connection, no FIN and no RST says so), `trickle` (bytes go out one by one), `fragment`
//! (messages in fragments), `garbage` (a message that cannot be inflated, or is no JSON), `say` (the body as one payload, whatever
//! it is; `~` becomes a byte that is not UTF-8), `skip?by=N` (numbers that are never sent), all for the connections of this moment.
//! `rate?events_per_s=R` (`inf`: as fast as they are taken), `limits?max_concurrency=N`, `hello_op7?count=N`, `refuse?count=N&status=S&retry_after=T`, `rest?status=S&count=N&retry_after=T` (0 for
//! none), `lost_acks?count=N`, `gateway_url` with the URL as body (empty: its own);
//! `live?events=N` lets events happen that change guilds, `replace` changes every object of every guild once; both go on until
//! `life_left` of the statistics is 0. `emit?shard=N` with a body `{"t":"NAME","d":...}`. `GET stats` shows everything.

use std::rc::Rc;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::json;

use super::connection::Connection;
use super::session::Entry;
use super::{Discord, Life, RECONNECT_NS, RestFault, Shared};
use crate::clock::now_ns;
use crate::http::{Message, json_answer, query_value};

/// Answers `/fake/WHAT`.
pub fn answer(discord: &Shared, what: &str, request: &Message) -> Vec<u8> {
    if what == "stats" {
        return json_answer(200, "", &discord.borrow().stats_json());
    }
    let query = Query(request.target().1);
    match discord.borrow_mut().order(what, &query, &request.body) {
        Ok(Done { touched, corked_ms }) => {
            if let Some(ms) = corked_ms {
                uncork_later(touched.clone(), ms);
            }
            json_answer(200, "", &json!({ "touched": touched.len() }).to_string())
        }
        Err(reason) => json_answer(400, "", &json!({ "message": reason }).to_string()),
    }
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        match query_value(self.0, key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("cannot read {key}={text}")),
        }
    }

    /// `None` for all shards, which is also what an absent key means.
    fn shard(&self, shards: u32) -> Result<Option<u32>, String> {
        match query_value(self.0, "shard") {
            None | Some("all") => Ok(None),
            Some(text) => match text.parse() {
                Ok(shard) if shard < shards => Ok(Some(shard)),
                _ => Err(format!("there is no shard {text}")),
            },
        }
    }
}

#[derive(Default)]
struct Done {
    touched: Vec<Rc<Connection>>,
    corked_ms: Option<u64>,
}

fn uncork_later(corked: Vec<Rc<Connection>>, ms: u64) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        corked.iter().for_each(|it| it.link.set_corked(false));
    });
}

impl Discord {
    fn order(&mut self, what: &str, query: &Query, body: &[u8]) -> Result<Done, String> {
        let shard = query.shard(self.options.size.shards)?;
        let touched = self.connections_of(shard);
        let now_ns = now_ns();
        match what {
            "drop" => {
                let events = query.number("events", 0)?;
                for connection in &touched {
                    connection.link.cut();
                    self.detach(connection, now_ns);
                }
                self.burst_each(shard, events);
            }
            "op7" => {
                touched.iter().for_each(|it| it.send(b"{\"t\":null,\"s\":null,\"op\":7,\"d\":null}"));
                self.doomed.extend(touched.iter().map(|it| (now_ns + RECONNECT_NS, it.id)));
            }
            "op9" => self.invalidate_sessions(&touched, query.number("resumable", false)?, now_ns),
            "op1" => {
                for connection in &touched {
                    connection.asked_ns.set(Some(now_ns));
                    connection.send(b"{\"t\":null,\"s\":null,\"op\":1,\"d\":null}");
                    self.stats.heartbeats_asked += 1;
                }
            }
            "close" => {
                let code = query.number("code", 4000)?;
                touched.iter().for_each(|it| self.close(it, code, "as asked", now_ns));
            }
            "stall" => {
                touched.iter().for_each(|it| it.link.set_corked(true));
                return Ok(Done { touched, corked_ms: Some(query.number("ms", 1000)?) });
            }
            "burst" => self.burst_each(shard, query.number("events", 100)?),
            "rate" => self.events_per_s = query.number("events_per_s", 0.0)?,
            "limits" => self.gate.set_max_concurrency(query.number("max_concurrency", 1)?),
            "hello_op7" => self.faults.hello_op7 = query.number("count", 1)?,
            "refuse" => {
                self.faults.refuse_upgrade = query.number("count", 1)?;
                self.faults.refuse_status = query.number("status", 503)?;
                self.faults.refuse_retry_after_s = Some(query.number("retry_after", 0)?).filter(|it| *it > 0);
            }
            "half_open" => {
                for connection in &touched {
                    connection.link.set_corked(true);
                    self.detach(connection, now_ns);
                    // No closing handshake and no late heartbeat is expected of the dead.
                    connection.heartbeat_ns.set(u64::MAX / 2);
                }
            }
            "trickle" => touched.iter().for_each(|it| it.link.set_trickling()),
            "fragment" => touched.iter().for_each(|it| it.is_fragmenting.set(true)),
            "garbage" => touched.iter().for_each(|it| it.send_garbage()),
            "say" => {
                let payload: Vec<u8> = body.iter().map(|byte| if *byte == b'~' { 0xFF } else { *byte }).collect();
                touched.iter().for_each(|it| it.send(&payload));
            }
            "skip" => {
                let numbers = query.number("by", 1)?;
                for shard in self.each_shard(shard) {
                    (0..numbers).for_each(|_| self.dispatch(shard, Entry::Hole, &mut Vec::new()));
                }
            }
            "lost_acks" => self.faults.lost_acks = query.number("count", 1)?,
            "gateway_url" => {
                let url = std::str::from_utf8(body).map_err(|it| it.to_string())?;
                self.faults.gateway_url = Some(url.to_owned()).filter(|it| !it.is_empty());
            }
            "rest" => {
                self.faults.rest = Some(RestFault {
                    status: query.number("status", 500)?,
                    count: query.number("count", 1)?,
                    retry_after_s: query.number("retry_after", 0.0)?,
                });
            }
            "emit" => self.emit(shard, body)?,
            "live" => self.life_left.push_back(Life::Events { shard, left: query.number("events", 1000)? }),
            "replace" => self.life_left.push_back(Life::Replace { next: 0 }),
            _ => return Err(format!("there is no /fake/{what}")),
        }
        Ok(Done { touched, corked_ms: None })
    }

    fn each_shard(&self, shard: Option<u32>) -> std::ops::Range<u32> {
        shard.map_or(0..self.options.size.shards, |it| it..it + 1)
    }

    fn burst_each(&mut self, shard: Option<u32>, events: u32) {
        self.each_shard(shard).for_each(|it| self.burst(it, events));
    }

    /// Op 9 in the middle of a session. One that may not be resumed is forgotten; its connection may IDENTIFY.
    fn invalidate_sessions(&mut self, touched: &[Rc<Connection>], is_resumable: bool, now_ns: u64) {
        for connection in touched {
            *self.stats.invalid_sessions.entry("as asked").or_default() += 1;
            connection.send(format!("{{\"t\":null,\"s\":null,\"op\":9,\"d\":{is_resumable}}}").as_bytes());
            let session = connection.session.borrow().clone();
            self.detach(connection, now_ns);
            if let (false, Some((shard, id))) = (is_resumable, session) {
                self.shards[shard as usize].sessions.retain(|it| it.id != id);
            }
        }
    }

    /// A dispatch from outside, `d` kept byte for byte.
    fn emit(&mut self, shard: Option<u32>, body: &[u8]) -> Result<(), String> {
        let body = std::str::from_utf8(body).map_err(|it| it.to_string())?.trim();
        serde_json::from_str::<IgnoredAny>(body).map_err(|it| it.to_string())?;
        let (name, d) = body
            .strip_prefix("{\"t\":\"")
            .and_then(|it| it.split_once("\",\"d\":"))
            .and_then(|(name, rest)| Some((name, rest.strip_suffix('}')?)))
            .ok_or("the body must begin {\"t\":\"NAME\",\"d\":")?;
        let entry = Entry::Raw(Rc::new((name.to_owned(), d.to_owned())));
        let mut touched = Vec::new();
        self.each_shard(shard).for_each(|it| self.dispatch(it, entry.clone(), &mut touched));
        touched.iter().for_each(|it: &Rc<Connection>| it.flush());
        Ok(())
    }

    fn stats_json(&self) -> String {
        let shards: Vec<_> = self
            .shards
            .iter()
            .enumerate()
            .map(|(shard, state)| {
                let sessions: Vec<_> = state
                    .sessions
                    .iter()
                    .map(|it| json!({"id": it.id, "seq": it.last_seq, "connected": it.connection.is_some()}))
                    .collect();
                json!({"shard": shard, "sent": state.counter, "sessions": sessions})
            })
            .collect();
        let mut stats = serde_json::to_value(&self.stats).expect("maps have string or number keys");
        stats["shards"] = shards.into();
        stats["identify_remaining"] = self.gate.remaining().into();
        stats["changes"] = self.changes.into();
        stats["life_left"] = self.life_left.len().into();
        stats["answers_left"] = self.answers.len().into();
        stats["connections"] = self.connections.len().into();
        stats.to_string()
    }
}
