//! The HTTP pages: metrics, health, the cached state, and Discord's two gateway endpoints with our own address.
//!
//! The cores and the operator's own listener (`admin`) hand over sockets whose request has been read. Four threads answer: one the
//! metrics and one the cached state, whose pages are large and may meet a slow reader, and two all the rest, whose pages fit into any
//! socket buffer: one for the gateway's port, one for the operator. So neither a slow reader nor a flood on the gateway's port delays the
//! operator's health check.
//! Not here: parsing HTTP, who may see what (`access`), and what the numbers mean (`metrics`).

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::access::{self, Access, CACHE, Refused, STATS};
use super::metrics::{self, IdentifyReport, ProcessReport};
use super::totals;
use crate::runtime::client_tls::Requester;
use crate::runtime::clock;
use crate::runtime::mesh::{CoreReport, Detail, Door};
use crate::shard::pressure::Pressure;
use crate::shard::report::{ShardReport, Wanted};
use crate::wire::http::PlainRequest;

/// Pages waiting for each of the four threads. When full, the request is answered 503 at once and closed.
const PAGES_MAX: usize = 64;
/// No two answers of one thread begin within this.
const ANSWERED_EVERY: Duration = Duration::from_millis(5);
/// A reader that has not taken the whole page by then is cut off.
const SEND_MAX: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 64 << 10;
/// Shards named one by one when they are not ready; the others are counted.
const NAMED_MAX: usize = 20;
/// `total` and `remaining` of our `/gateway/bot`: identifying with the proxy costs nothing.
const SESSIONS: u32 = 1_000_000;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What the pages say that never changes.
#[derive(Clone, Debug)]
pub struct Site {
    pub externally_accessible_url: String,
    pub shards: Range<u32>,
    pub shard_count: u32,
    pub access: Access,
}

/// What the cores said, and which of them said nothing in time.
#[derive(Debug, Default)]
pub struct Reports {
    pub cores: Vec<CoreReport>,
    pub silent: Vec<usize>,
}

/// One request to be answered.
pub struct Job {
    /// Its socket is blocking.
    pub requester: Requester,
    pub request: PlainRequest,
    pub door: Door,
    pub process: ProcessReport,
}

/// What the cores have of an object, as `coordinator::find` answers.
pub type FoundObject = Result<Option<Vec<u8>>, usize>;

/// The way to the four threads; they end when this is dropped.
pub struct Pages {
    /// With it metrics and cached state are refused on the gateway's port.
    has_admin_bind: bool,
    metrics: SyncSender<Job>,
    cache: SyncSender<Job>,
    public: SyncSender<Job>,
    operator: SyncSender<Job>,
}

impl Pages {
    /// `collect` asks all cores for their reports, `find` for one object; both block until they answered or were silent for too long.
    pub fn start(
        site: Site,
        collect: impl Fn(Detail) -> Reports + Clone + Send + 'static,
        find: impl Fn(Wanted) -> FoundObject + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let has_admin_bind = site.access.has_admin_bind;
        let start = |name| start_thread(name, site.clone(), collect.clone(), find.clone());
        let (metrics, cache, public, operator) =
            (start("metrics")?, start("cache")?, start("pages")?, start("operator")?);
        Ok(Self { has_admin_bind, metrics, cache, public, operator })
    }

    /// Never blocks.
    pub fn serve(&self, job: Job) {
        let queue = match (job.door, path_of(&job.request)) {
            (Door::Gateway, _) if self.has_admin_bind => &self.public,
            (_, "/metrics") => &self.metrics,
            (_, path) if path.starts_with(CACHE) => &self.cache,
            (Door::Gateway, _) => &self.public,
            (Door::Admin, _) => &self.operator,
        };
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = queue.try_send(job) {
            send_at_once(job.requester, &job.request, &Response::text(503, "Too many requests are waiting.\n"));
        }
    }
}

/// Answers while no core runs and the number of shards is not known: the process lives, and is not ready. Never blocks.
pub fn answer_early(requester: Requester, request: &PlainRequest) {
    let response = match path_of(request) {
        "/livez" => Response::text(200, "ok\n"),
        "/health" => not_healthy(),
        _ => Response::text(503, "asks Discord for the gateway\n"),
    };
    send_at_once(requester, request, &response);
}

fn send_at_once(mut requester: Requester, request: &PlainRequest, response: &Response) {
    let Ok(bytes) = requester.seal(response.to_bytes(request.head_only)) else { return };
    let mut socket = &requester.socket;
    // Fits into the empty buffer of a fresh socket; if not, the requester is no worse off.
    let _ = socket.set_nonblocking(true).and_then(|()| socket.write(&bytes));
}

fn start_thread(
    name: &str,
    site: Site,
    collect: impl Fn(Detail) -> Reports + Send + 'static,
    find: impl Fn(Wanted) -> FoundObject + Send + 'static,
) -> io::Result<SyncSender<Job>> {
    let (queue, jobs) = mpsc::sync_channel::<Job>(PAGES_MAX);
    let serve = move || {
        let mut next_at = clock::now();
        for mut job in jobs {
            // A flood of requests must not become one of reports, which take the cores' time.
            thread::sleep(next_at.saturating_duration_since(clock::now()));
            next_at = clock::now() + ANSWERED_EVERY;
            let peer = job.requester.socket.peer_addr().ok().map(|it| it.ip());
            let (path, shown) = (path_of(&job.request), job.request.bearer.as_ref());
            let response = match access::refuse(&site.access, path, job.door, peer, shown) {
                Some(refused) => refusal(refused),
                None => answer(&job.request, &site, &job.process, &collect, &find),
            };
            // A requester that went away is nobody's loss.
            let sealed = job.requester.seal(response.to_bytes(job.request.head_only));
            let _ = sealed.and_then(|it| send(&job.requester.socket, &it));
        }
    };
    thread::Builder::new().name(name.into()).spawn(serve)?;
    Ok(queue)
}

/// Sends all of `bytes` within `SEND_MAX`, however slowly they are taken.
fn send(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let end = clock::now() + SEND_MAX;
    let mut rest = bytes;
    while !rest.is_empty() {
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_write_timeout(Some(left))?;
        match socket.write(&rest[..rest.len().min(CHUNK_BYTES)])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => rest = &rest[sent..],
        }
    }
    socket.shutdown(Shutdown::Write)
}

struct Response {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Response {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into().into_bytes() }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        Self { status, content_type: JSON, body: body.to_string().into_bytes() }
    }

    /// Without body when only the head was asked for.
    fn to_bytes(&self, head_only: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Service Unavailable",
        };
        let header = match self.status {
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{header}Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        let body = if head_only { &[][..] } else { &self.body };
        [head.as_bytes(), body].concat()
    }
}

fn path_of(request: &PlainRequest) -> &str {
    request.path.split(['?', '#']).next().unwrap_or_default()
}

fn refusal(refused: Refused) -> Response {
    let (status, message) = match refused {
        Refused::NotFound => return not_found(),
        Refused::OnAdminBindAlone => (403, "State and totals are shown on the address of `admin_bind` alone"),
        Refused::ToLoopbackAlone => (
            403,
            "State and totals are shown to this machine alone; `admin_bind` gives them an address of their own, `admin_key` a key",
        ),
        Refused::KeyWanted => (401, "This page wants `Authorization: Bearer` with the proxy's `admin_key`"),
    };
    Response::json(status, &json!({ "message": message }))
}

fn answer(
    request: &PlainRequest,
    site: &Site,
    process: &ProcessReport,
    collect: &impl Fn(Detail) -> Reports,
    find: &impl Fn(Wanted) -> FoundObject,
) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Response::json(405, &json!({"message": "405: Method Not Allowed", "code": 0}));
    }
    let path = path_of(request);
    // The base of a library may end in a slash, and may have a version.
    let api = ["/api/v10/", "/api/v9/", "/api/", "/"].iter().find_map(|base| path.strip_prefix(base));
    match (path, api) {
        ("/metrics", _) => measured(process, &collect(Detail::Whole)),
        (STATS, _) => Response::json(200, &totals::totals(&site.shards, site.shard_count, &collect(Detail::Whole))),
        ("/shard-count", _) => Response::text(200, site.shard_count.to_string()),
        ("/livez", _) => alive(&collect(Detail::Brief)),
        ("/readyz", _) => match unready(site, process, &collect(Detail::Brief)) {
            None => Response::text(200, "ok\n"),
            Some(why) => Response::text(503, why),
        },
        // gateway-proxy's forks answer so.
        ("/health", _) => match unready(site, process, &collect(Detail::Brief)) {
            None => Response::text(200, "OK"),
            Some(_) => not_healthy(),
        },
        (_, Some("gateway")) => Response::json(200, &json!({"url": site.externally_accessible_url})),
        (_, Some("gateway/bot")) => Response::json(200, &gateway_bot(site)),
        (path, _) => match path.strip_prefix(CACHE).and_then(|rest| rest.split_once('/')) {
            Some((kind, id)) => cached(kind, id, find),
            None => not_found(),
        },
    }
}

fn not_healthy() -> Response {
    Response::text(400, "Not ready!")
}

fn not_found() -> Response {
    Response::json(404, &json!({"message": "404: Not Found", "code": 0}))
}

/// `/cache/KIND/ID`: the object as it is stored.
fn cached(kind: &str, id: &str, find: &impl Fn(Wanted) -> FoundObject) -> Response {
    let wanted: fn(u64) -> Wanted = match kind {
        "guild" => Wanted::Guild,
        "channel" => Wanted::Channel,
        "user" => Wanted::User,
        _ => return not_found(),
    };
    // `parse` takes a plus sign.
    let Some(id) = id.parse().ok().filter(|_| id.bytes().all(|it| it.is_ascii_digit())) else {
        return Response::json(400, &json!({"message": format!("Not a snowflake: wanted /cache/{kind}/ID")}));
    };
    match find(wanted(id)) {
        Ok(Some(body)) => Response { status: 200, content_type: JSON, body },
        Ok(None) => Response::json(404, &json!({"message": format!("Unknown {kind}")})),
        Err(silent) => Response::json(503, &json!({"message": format!("{silent} of the cores do not answer")})),
    }
}

/// As Discord answers, with limits that make no library wait or refuse: discord.js wants `remaining` ≥ shards, and
/// `max_concurrency` ≥ shards lets all of them IDENTIFY at once.
fn gateway_bot(site: &Site) -> serde_json::Value {
    json!({
        "url": site.externally_accessible_url,
        "shards": site.shard_count,
        "session_start_limit": {
            "total": SESSIONS,
            "remaining": SESSIONS,
            "reset_after": 0,
            "max_concurrency": site.shard_count.max(1),
        },
    })
}

/// Most counters are sums: without a core that is silent, or has drained, they would go down, which Prometheus takes for a restart. A page that is
/// missing is told apart.
fn measured(process: &ProcessReport, reports: &Reports) -> Response {
    if !reports.silent.is_empty() {
        return alive(reports);
    }
    let body = metrics::page(&reports.cores, process).into_bytes();
    Response { status: 200, content_type: metrics::CONTENT_TYPE, body }
}

fn alive(reports: &Reports) -> Response {
    match reports.silent.as_slice() {
        [] => Response::text(200, "ok\n"),
        silent => {
            Response::text(503, silent.iter().map(|core| format!("core {core} does not answer\n")).collect::<String>())
        }
    }
}

/// Which shards are not ready for clients and why, a line each, and what keeps all of them waiting; `None` when nothing is.
fn unready(site: &Site, process: &ProcessReport, reports: &Reports) -> Option<String> {
    if process.stopping {
        return Some("stopping\n".into());
    }
    let known: Vec<&ShardReport> = reports.cores.iter().flat_map(|core| &core.shards).collect();
    let why = |shard| known.iter().find(|it| it.shard == shard).map_or(Some("unknown"), |it| it.unready.as_deref());
    let waiting: Vec<_> = site.shards.clone().filter_map(|shard| Some((shard, why(shard)?))).collect();
    let mut lines: String = reports.silent.iter().map(|core| format!("core {core} does not answer\n")).collect();
    let identify = &process.identify;
    let memory = process.memory;
    if memory.level == Pressure::Full {
        let limit = memory.limit.unwrap_or_default();
        lines += &format!("memory: {} bytes are used, of {limit}: new connections are refused\n", memory.bytes);
    }
    for (shard, state) in waiting.iter().take(NAMED_MAX) {
        let is_held_back = identify.held_back && identify.waiting.binary_search(shard).is_ok();
        let why = if is_held_back { held_back(identify) } else { (*state).to_owned() };
        lines += &format!("shard {shard}: {why}\n");
    }
    if waiting.len() > NAMED_MAX {
        lines += &format!("and {} more\n", waiting.len() - NAMED_MAX);
    }
    (!lines.is_empty()).then_some(lines)
}

/// Why a shard may not IDENTIFY, and until when.
fn held_back(identify: &IdentifyReport) -> String {
    let minutes = identify.resets_in.as_secs().div_ceil(60);
    format!(
        "waits for the limit of IDENTIFYs to reset in {} h {} min ({} of {} left, a reserve of {} is not spent)",
        minutes / 60,
        minutes % 60,
        identify.remaining,
        identify.limit,
        identify.reserve
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::control::memory::MemoryReport;

    fn site() -> Site {
        Site {
            externally_accessible_url: "ws://proxy:7878".into(),
            shards: 0..2,
            shard_count: 2,
            access: Access::default(),
        }
    }

    fn request(path: &str) -> PlainRequest {
        PlainRequest { method: "GET".into(), path: path.into(), host: None, head_only: false, bearer: None }
    }

    /// Status 4 is ready, the others say their number.
    fn reports(statuses: &[u8]) -> Reports {
        let shard = |(shard, status): (usize, &u8)| {
            let unready = (*status != 4).then(|| format!("in state {status}"));
            ShardReport { shard: shard as u32, status: *status, unready, ..Default::default() }
        };
        let shards = statuses.iter().enumerate().map(shard).collect();
        Reports { cores: vec![CoreReport { shards, ..Default::default() }], silent: Vec::new() }
    }

    fn get_with(path: &str, process: &ProcessReport, collect: &impl Fn(Detail) -> Reports) -> (u16, String) {
        let response = answer(&request(path), &site(), process, collect, &|_| Ok(None));
        (response.status, String::from_utf8(response.body).unwrap())
    }

    fn get(path: &str, statuses: &[u8]) -> (u16, String) {
        get_with(path, &ProcessReport::default(), &|_| reports(statuses))
    }

    #[test]
    fn the_number_of_shards_is_plain_text() {
        assert_eq!(get("/shard-count", &[]), (200, "2".into()));
    }

    #[test]
    fn ready_means_that_every_shard_serves_its_clients() {
        assert_eq!(get("/readyz", &[4, 4]), (200, "ok\n".into()));
        assert_eq!(get("/readyz", &[4, 2]), (503, "shard 1: in state 2\n".into()));
        assert_eq!(get("/readyz", &[0, 1]), (503, "shard 0: in state 0\nshard 1: in state 1\n".into()));
        assert_eq!(get("/readyz", &[4]), (503, "shard 1: unknown\n".into()));
    }

    #[test]
    fn a_shard_that_waits_for_the_limit_says_until_when() {
        let identify = IdentifyReport {
            remaining: 10,
            limit: 1000,
            reserve: 10,
            resets_in: Duration::from_secs(3 * 3600 + 59 * 60 + 1),
            held_back: true,
            waiting: vec![1],
        };
        let process = ProcessReport { identify, ..Default::default() };
        let (status, body) = get_with("/readyz", &process, &|_| reports(&[2, 2]));
        let why =
            "waits for the limit of IDENTIFYs to reset in 4 h 0 min (10 of 1000 left, a reserve of 10 is not spent)";
        assert_eq!((status, body), (503, format!("shard 0: in state 2\nshard 1: {why}\n")));
    }

    #[test]
    fn health_answers_as_forks_of_gateway_proxy_do() {
        assert_eq!(get("/health", &[4, 4]), (200, "OK".into()));
        assert_eq!(get("/health", &[4, 3]), (400, "Not ready!".into()));
    }

    #[test]
    fn a_stopping_proxy_is_not_ready() {
        let process = ProcessReport { stopping: true, ..Default::default() };
        assert_eq!(get_with("/readyz", &process, &|_| reports(&[4, 4])), (503, "stopping\n".into()));
    }

    #[test]
    fn a_proxy_without_memory_for_new_connections_is_not_ready() {
        let memory = |level| MemoryReport { bytes: 7, limit: Some(7), level };
        let process = |level| ProcessReport { memory: memory(level), ..Default::default() };
        let line = "memory: 7 bytes are used, of 7: new connections are refused\n";
        assert_eq!(get_with("/readyz", &process(Pressure::Full), &|_| reports(&[4, 4])), (503, line.into()));
        assert_eq!(get_with("/readyz", &process(Pressure::Shed), &|_| reports(&[4, 4])).0, 200);
    }

    #[test]
    fn who_asks_whether_all_is_well_costs_no_walk_over_the_state() {
        let asked = std::cell::RefCell::new(Vec::new());
        for path in ["/livez", "/readyz", "/health", "/metrics", "/stats"] {
            let collect = |detail| {
                asked.borrow_mut().push(detail);
                reports(&[4, 4])
            };
            get_with(path, &ProcessReport::default(), &collect);
        }
        let (brief, whole) = (Detail::Brief, Detail::Whole);
        assert_eq!(*asked.borrow(), [brief, brief, brief, whole, whole]);
    }

    #[test]
    fn alive_means_that_every_core_answers() {
        assert_eq!(get("/livez", &[1, 1]), (200, "ok\n".into()));
        let silent = |_| Reports { silent: vec![1], ..reports(&[4]) };
        assert_eq!(get_with("/livez", &ProcessReport::default(), &silent), (503, "core 1 does not answer\n".into()));
    }

    #[test]
    fn no_metrics_are_shown_without_those_of_every_core() {
        let process = ProcessReport::default();
        assert_eq!(get_with("/metrics", &process, &|_| reports(&[4])).0, 200);
        let silent = |_| Reports { silent: vec![1], ..reports(&[4]) };
        assert_eq!(get_with("/metrics", &process, &silent), (503, "core 1 does not answer\n".into()));
    }

    #[test]
    fn many_unready_shards_are_counted() {
        let site = Site { shards: 0..225, shard_count: 225, ..site() };
        let why = unready(&site, &ProcessReport::default(), &Reports::default()).unwrap();
        assert_eq!(why.lines().count(), NAMED_MAX + 1);
        assert!(why.ends_with("and 205 more\n"), "{why}");
    }

    #[test]
    fn the_gateway_endpoints_answer_with_our_own_address_under_every_base() {
        for base in ["", "/api", "/api/v9", "/api/v10"] {
            let (status, body) = get(&format!("{base}/gateway?x=1"), &[]);
            assert_eq!((status, body.as_str()), (200, r#"{"url":"ws://proxy:7878"}"#), "{base}");
            let (status, body) = get(&format!("{base}/gateway/bot"), &[]);
            let bot: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, &bot["url"], &bot["shards"]), (200, &json!("ws://proxy:7878"), &json!(2)), "{base}");
            let limit = json!({"total": 1000000, "remaining": 1000000, "reset_after": 0, "max_concurrency": 2});
            assert_eq!(bot["session_start_limit"], limit);
        }
    }

    #[test]
    fn the_totals_are_a_page() {
        let (status, body) = get("/stats", &[4, 2]);
        let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &stats["complete"], &stats["missing"][0]["shard"]), (200, &json!(false), &json!(1)));
    }

    #[test]
    fn everything_else_is_not_found_in_discords_words() {
        for path in ["/", "/api/v10/users/@me", "/api/v8/gateway", "/metrics/", ""] {
            assert_eq!(get(path, &[]), (404, r#"{"code":0,"message":"404: Not Found"}"#.into()), "{path}");
        }
    }

    #[test]
    fn other_methods_are_not_allowed() {
        let post = PlainRequest { method: "POST".into(), ..request("/metrics") };
        let response = answer(&post, &site(), &ProcessReport::default(), &|_| Reports::default(), &|_| Ok(None));
        assert_eq!(response.status, 405);
        assert!(String::from_utf8(response.to_bytes(false)).unwrap().contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[test]
    fn the_cached_state_answers_with_the_stored_json() {
        let find = |wanted| match wanted {
            Wanted::Guild(41) => Ok(Some(br#"{"id":"41"}"#.to_vec())),
            Wanted::Channel(u64::MAX) => Ok(Some(b"{}".to_vec())),
            Wanted::User(3) => Err(2),
            _ => Ok(None),
        };
        let get = |path: &str| {
            let response = answer(&request(path), &site(), &ProcessReport::default(), &|_| Reports::default(), &find);
            assert_eq!(response.content_type, JSON, "{path}");
            (response.status, String::from_utf8(response.body).unwrap())
        };
        assert_eq!(get("/cache/guild/41?pretty=1"), (200, r#"{"id":"41"}"#.into()));
        assert_eq!(get("/cache/channel/18446744073709551615"), (200, "{}".into()));
        assert_eq!(get("/cache/guild/42"), (404, r#"{"message":"Unknown guild"}"#.into()));
        assert_eq!(get("/cache/channel/42"), (404, r#"{"message":"Unknown channel"}"#.into()));
        assert_eq!(get("/cache/user/42"), (404, r#"{"message":"Unknown user"}"#.into()));
        assert_eq!(get("/cache/user/3"), (503, r#"{"message":"2 of the cores do not answer"}"#.into()));
        for bad in ["", "x", "-1", "+1", "1/2", "18446744073709551616", "%31"] {
            assert_eq!(get(&format!("/cache/guild/{bad}")).0, 400, "{bad}");
        }
        assert_eq!((get("/cache/role/1").0, get("/cache/").0, get("/cache").0), (404, 404, 404));
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        let text = |refused| String::from_utf8(refusal(refused).to_bytes(false)).unwrap();
        assert!(text(Refused::ToLoopbackAlone).contains("`admin_bind`"));
        let unauthorized = text(Refused::KeyWanted);
        assert!(unauthorized.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{unauthorized}");
        assert!(unauthorized.contains("\r\nWWW-Authenticate: Bearer\r\n") && unauthorized.contains("`admin_key`"));
        assert!(text(Refused::NotFound).starts_with("HTTP/1.1 404 "));
    }

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn read_all(mut socket: TcpStream) -> String {
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    /// The requester's end.
    fn ask(pages: &Pages, door: Door, path: &str) -> TcpStream {
        let (reader, socket) = pair();
        let (requester, request, process) = (Requester::plain(socket), request(path), ProcessReport::default());
        pages.serve(Job { requester, request, door, process });
        reader
    }

    #[test]
    fn before_the_shards_are_known_the_process_lives_and_is_not_ready() {
        let answer = |path| {
            let (reader, socket) = pair();
            answer_early(Requester::plain(socket), &request(path));
            read_all(reader)
        };
        assert!(answer("/livez").starts_with("HTTP/1.1 200 "));
        assert!(answer("/health").starts_with("HTTP/1.1 400 "));
        for path in ["/readyz", "/metrics", "/stats", "/gateway/bot"] {
            let text = answer(path);
            assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("\nasks Discord for the gateway\n"), "{text}");
        }
    }

    #[test]
    fn a_page_arrives_whole_and_the_connection_ends() {
        let pages = Pages::start(site(), |_| reports(&[4, 4]), |_| Ok(None)).unwrap();
        for (path, head_only) in [("/metrics", false), ("/readyz", false), ("/metrics", true)] {
            let (reader, socket) = pair();
            let request = PlainRequest { head_only, ..request(path) };
            pages.serve(Job {
                requester: Requester::plain(socket),
                request,
                door: Door::Gateway,
                process: ProcessReport::default(),
            });
            let text = read_all(reader);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("Connection: close"), "{head}");
            let announced: usize =
                head.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
            assert_eq!(body.len(), if head_only { 0 } else { announced });
            assert!(announced > 0);
        }
    }

    #[test]
    fn a_full_queue_is_told_at_once_and_leaves_the_other_pages_alone() {
        let (go, gate) = mpsc::channel::<()>();
        let (entered, at_work) = mpsc::channel();
        let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
        let stuck = move |_| {
            entered.send(()).unwrap();
            let _ = gate.lock().unwrap().recv();
            Reports::default()
        };
        let pages = Pages::start(site(), stuck, |_| Ok(None)).unwrap();
        let ask = |path| ask(&pages, Door::Gateway, path);
        let first = ask("/metrics");
        at_work.recv().unwrap();
        let waiting: Vec<_> = (0..PAGES_MAX).map(|_| ask("/metrics")).collect();
        assert!(read_all(ask("/metrics")).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(read_all(ask("/shard-count")).ends_with("\r\n\r\n2"));
        drop(go);
        for reader in [first].into_iter().chain(waiting) {
            assert!(read_all(reader).starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }

    #[test]
    fn a_flood_on_the_gateways_port_takes_no_place_of_the_operators() {
        let (go, gate) = mpsc::channel::<()>();
        let (entered, at_work) = mpsc::channel();
        let gate = std::sync::Arc::new(std::sync::Mutex::new((gate, true)));
        // The first report takes for as long as we like.
        let stuck = move |_| {
            entered.send(()).unwrap();
            let mut gate = gate.lock().unwrap();
            if std::mem::take(&mut gate.1) {
                let _ = gate.0.recv();
            }
            Reports::default()
        };
        let access = Access { has_admin_bind: true, admin_key: None };
        let pages = Pages::start(Site { access, ..site() }, stuck, |_| Ok(None)).unwrap();
        let first = ask(&pages, Door::Gateway, "/readyz");
        at_work.recv().unwrap();
        let paths = ["/", "/gateway", "/metrics", "/cache/guild/1"];
        let waiting: Vec<_> = (0..PAGES_MAX).map(|at| ask(&pages, Door::Gateway, paths[at % 4])).collect();
        for path in paths {
            assert!(read_all(ask(&pages, Door::Gateway, path)).starts_with("HTTP/1.1 503 "), "{path}");
        }
        assert!(read_all(ask(&pages, Door::Admin, "/shard-count")).ends_with("\r\n\r\n2"));
        assert!(read_all(ask(&pages, Door::Admin, "/cache/guild/1")).starts_with("HTTP/1.1 404 "));
        drop(go);
        for reader in [first].into_iter().chain(waiting) {
            assert!(!read_all(reader).is_empty());
        }
    }
}
