//! The proxy as a process in front of a fake Discord: started, asked, ended, started again.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use loadtest::client::options::INTENTS;
use loadtest::discord::Address;
use loadtest::http;
use loadtest::run::port::Port;
use loadtest::run::proc::Process;
use loadtest::run::proxy::Death;
use loadtest::tls::{self, Roots};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::POLL;

/// The proxy's program, which stands beside the tests' own in the target directory.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("shardgate");
    assert!(path.exists(), "{} was not built: `cargo test --workspace` builds it", path.display());
    path
}

/// The backends that this machine allows; of one that it does not, the reason is printed.
pub fn backends() -> Vec<&'static str> {
    let is_allowed = |backend: &&str| {
        let config = json!({"token": "fake", "intents": 1, "shards": 1, "cores": 1, "backend": backend});
        let check = std::process::Command::new(binary()).arg("--check").env("CONFIG", config.to_string()).output();
        let check = check.unwrap();
        if !check.status.success() {
            println!("skipping {backend}: {}", String::from_utf8_lossy(&check.stderr));
        }
        check.status.success()
    };
    // Only the ring may be refused: a machine without epoll runs nothing of this.
    assert!(is_allowed(&"epoll"));
    ["epoll", "io_uring"].into_iter().filter(is_allowed).collect()
}

/// Runs `test` for every backend, all at once: they mostly wait.
pub fn on_backends(test: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for backend in backends() {
            let test = &test;
            scope.spawn(move || test(backend));
        }
    });
}

/// Two cores where there are two, so that clients are handed over.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, |it| it.get().min(2))
}

pub struct Proxy {
    /// `ws://127.0.0.1:PORT`, or `wss` when it was given a certificate.
    pub url: String,
    /// For its pages over TLS.
    pub roots: Roots,
    pub process: Process,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    _port: Port,
}

impl Proxy {
    /// Starts the proxy in front of `discord`, with more or other keys in its configuration, and waits until all its
    /// shards are active.
    pub async fn start(discord: &Address, arguments: &[&str], keys: Value) -> Self {
        let mut proxy = Self::spawn(discord, arguments, keys);
        proxy.ready().await;
        proxy
    }

    /// Starts it and waits for nothing.
    pub fn spawn(discord: &Address, arguments: &[&str], keys: Value) -> Self {
        Self::spawn_in(discord, arguments, keys, Vec::new())
    }

    /// The same with more in its environment.
    pub fn spawn_in(
        discord: &Address,
        arguments: &[&str],
        keys: Value,
        more_environment: Vec<(&'static str, String)>,
    ) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let port = Port::reserve().unwrap();
        let roots = keys["tls_cert"].as_str().and_then(|it| tls::roots_from(Path::new(it)).unwrap());
        let s = if roots.is_some() { "s" } else { "" };
        let url = format!("ws{s}://127.0.0.1:{}", port.number);
        let mut config = json!({
            "token": "fake",
            "intents": INTENTS,
            "bind": "127.0.0.1",
            "port": port.number,
            "externally_accessible_url": url,
            "api_url": discord.rest,
            "cores": cores(),
        });
        keys.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("proxy-{}-{number}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut environment = more_environment;
        environment.push(("CONFIG", config.to_string()));
        if let Some(cert) = &discord.cert {
            environment.push(("SSL_CERT_FILE", cert.clone()));
        }
        Self::launched(url, roots, arguments, environment, log, port)
    }

    /// Starts it with these arguments and variables alone, which tell it to listen at `port`, and waits for nothing.
    pub fn spawn_with(arguments: &[&str], environment: Vec<(&'static str, String)>, port: Port) -> Self {
        let name = format!("proxy-{}-at-{}.log", std::process::id(), port.number);
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        Self::launched(format!("ws://127.0.0.1:{}", port.number), Roots::default(), arguments, environment, log, port)
    }

    fn launched(
        url: String,
        roots: Roots,
        arguments: &[&str],
        environment: Vec<(&'static str, String)>,
        log: PathBuf,
        port: Port,
    ) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|it| it.to_string()).collect();
        let process = launch(&arguments, &environment, &log);
        Self { url, roots, process, log, arguments, environment, _port: port }
    }

    /// Ends it and starts it again at once, with the same configuration on the same port, and waits for nothing else.
    pub async fn restart(&mut self, death: Death) {
        self.end(death).await;
        self.begin();
    }

    /// Ends it: cleanly, or not.
    pub async fn end(&mut self, death: Death) {
        match death {
            Death::Terminated => {
                self.process.terminate();
                let status = self.ended().await;
                assert!(status.success(), "{status}:\n{}", self.log());
            }
            Death::Killed => self.process.kill().await,
        }
    }

    /// Starts it again.
    pub fn begin(&mut self) {
        self.process = launch(&self.arguments, &self.environment, &self.log);
    }

    /// Waits until all shards are active.
    pub async fn ready(&mut self) {
        while self.page("/readyz").await.0 != 200 {
            self.check();
            sleep(POLL).await;
        }
    }

    /// Waits until its log holds this. A thread of its own writes the log, after whatever the line tells of has been seen.
    pub async fn logged(&mut self, text: &str) {
        while !self.log().contains(text) {
            self.check();
            sleep(POLL).await;
        }
    }

    /// What a subcommand says that is run with the same configuration: whether it succeeded, and what it printed.
    pub fn ask(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = std::process::Command::new(binary());
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// `http://ADDRESS:PORT` of `admin_bind`, as the log says it.
    pub async fn admin(&mut self) -> String {
        const LINE: &str = "operator's pages";
        self.logged(LINE).await;
        let log = self.log();
        let line = log.lines().find(|it| it.contains(LINE)).unwrap();
        let digits = line.split("127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit);
        format!("http://127.0.0.1:{}", digits.collect::<String>())
    }

    /// Panics with the log when the process has ended.
    pub fn check(&mut self) {
        if let Some(status) = self.process.exited() {
            panic!("the proxy ended, {status}:\n{}", self.log());
        }
    }

    /// Status and body of a page; status 0 when nobody listens.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url.replacen("ws", "http", 1));
        http::call("GET", &url, "", self.roots.clone()).await.unwrap_or_default()
    }

    /// The value of one line of the metrics, `name{labels}`; `None` when there is no such line.
    pub async fn metric(&self, line: &str) -> Option<f64> {
        let (_, page) = self.page("/metrics").await;
        page.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its environment, for another command with the same configuration.
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// How it has ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// How it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.process.exited() {
                return status;
            }
            sleep(POLL).await;
        }
    }

    /// SIGTERM, and a clean end. The proxy itself exits with 1 when it needed more than its 10 s.
    pub async fn stop(mut self) {
        self.process.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
    }
}

fn launch(arguments: &[String], environment: &[(&str, String)], log: &Path) -> Process {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Process::start(&binary(), arguments, &environment, log).unwrap()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the proxy's log:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        std::fs::remove_file(&self.log).ok();
    }
}
