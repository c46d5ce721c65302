//! The program from outside: its arguments, `--check`, refusals, and a clean end. A refusal is one line on standard error.

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const TOKEN: &str = "invented.token";

fn shardgate(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    // Nothing of the machine's own may be found in the working directory.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

fn output(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    shardgate(arguments, environment).output().unwrap()
}

/// The one line on standard error of a start that must not succeed.
fn refusal(arguments: &[&str], environment: &[(&str, &str)], status: i32) -> String {
    let output = output(arguments, environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(text.starts_with("shardgate: ") && text.lines().count() == 1, "{text}");
    assert!(!text.contains(TOKEN), "{text}");
    text.trim_start_matches("shardgate: ").trim_end().to_owned()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn config(more: &str) -> String {
    format!(r#"{{"token":"{TOKEN}","intents":513,"backend":"epoll"{more}}}"#)
}

#[test]
fn help_and_version_print_and_succeed() {
    let help = output(&["--help"], &[]);
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("--check"));
    let version = output(&["-V"], &[]);
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("shardgate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_are_status_2() {
    assert_eq!(refusal(&["--chekc"], &[], 2), "unknown option `--chekc`; did you mean `--check`? See --help");
}

#[test]
fn check_prints_what_would_be_used_without_the_token() {
    let output = output(&["check"], &[("CONFIG", &config(r#","shards":3,"shrads":4"#))]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    assert!(text.contains("  backend                    epoll\n"), "{text}");
    assert!(text.contains("note: unknown key `shrads` is ignored; the nearest known key is `shards`\n"), "{text}");
    assert!(!text.contains(TOKEN), "{text}");
}

#[test]
fn the_example_of_gateway_proxy_passes_the_check() {
    let cache = ["channels", "presences", "emojis", "current_member", "members", "roles", "scheduled_events"];
    let cache = cache.into_iter().chain(["stage_instances", "stickers", "users", "voice_states"]);
    let cache: Vec<_> = cache.map(|key| format!("\"{key}\": false")).collect();
    let text = format!(r#"{{"log_level": "info", "token": "", "intents": 32511, "cache": {{{}}}}}"#, cache.join(", "));
    let path = file("gateway-proxy.json", &text);
    let output = output(&["--check", "--config", path.to_str().unwrap()], &[("TOKEN", TOKEN)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("  cache                      nothing\n"), "{text}");
}

#[test]
fn a_path_comes_from_the_command_line_or_the_environment() {
    let path = file("named.json", &config(""));
    let path = path.to_str().unwrap();
    assert!(output(&["--check", &format!("--config={path}")], &[("CONFIG", "{}")]).status.success());
    assert!(output(&["--check"], &[("CONFIG", path)]).status.success());
    let line = refusal(&["--check", "--config", "not/there.json"], &[], 1);
    assert!(line.starts_with("not/there.json: found No such file"), "{line}");
}

#[test]
fn each_mistake_is_one_line_with_key_found_and_wanted() {
    for (config, start) in [
        ("{\"token\": 1,\n \"intents\" 5}", "CONFIG: line 2, column 12: not JSON: expected `:`"),
        ("{\"intents\":1}", "CONFIG: token: found nothing, wanted the bot's token"),
        (&format!("{{\"token\":\"{TOKEN}\"}}"), "CONFIG: intents: found nothing, wanted an integer"),
        (&config(r#","port":"x""#), "CONFIG: port: found \"x\", wanted an integer from 0 to 65535"),
        (&config(r#","shards":4,"shard_end":5"#), "CONFIG: shard_end: found 5, wanted an integer from 1 to 4"),
        (&config(r#","cache":{"users":"no"}"#), "CONFIG: cache.users: found \"no\", wanted true or false"),
        (&config(r#","cores":4095"#), "cores: found 4095, wanted at most "),
        (&config(r#","egress_proxy":"socks5://x""#), "CONFIG: egress_proxy: found a string, wanted \"http://"),
    ] {
        for arguments in [&["--check"][..], &[]] {
            let line = refusal(arguments, &[("CONFIG", config)], 1);
            assert!(line.starts_with(start), "{config} gave {line}");
        }
    }
}

#[test]
fn without_a_file_variables_and_flags_are_enough() {
    let path = file("token", &format!("{TOKEN}\n"));
    let path = path.to_str().unwrap();
    let environment = [("SHARDGATE_INTENTS", "513"), ("SHARDGATE_TOKEN_FILE", path), ("SHARDGATE_BACKEND", "epoll")];
    let output = output(&["check", "--shards", "3", "--cache-roles=false"], &environment);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        vec!["token", "(hidden)", path],
        vec!["shards", "3", "--shards"],
        vec!["cache.roles", "false", "--cache-roles"],
        vec!["intents", "513", "SHARDGATE_INTENTS"],
    ] {
        assert!(rows.contains(&row), "{row:?} is not in\n{text}");
    }
    assert!(!text.contains(TOKEN), "{text}");
    let line = refusal(&["--port", "x"], &environment, 1);
    assert_eq!(line, "--port: found \"x\", wanted an integer from 0 to 65535");
    let line = refusal(&[], &[("SHARDGATE_INTENTS", "all"), ("TOKEN", TOKEN)], 1);
    assert!(line.starts_with("SHARDGATE_INTENTS: found \"all\", wanted an integer from 0"), "{line}");
    let line = refusal(&[], &[], 1);
    assert!(line.starts_with("config.json: found No such file") && line.contains("SHARDGATE_* variables"), "{line}");
}

#[test]
fn the_keys_are_listed() {
    let listing = String::from_utf8(output(&["help", "config"], &[]).stdout).unwrap();
    assert!(listing.contains("--cache-members"), "{listing}");
    let page = String::from_utf8(output(&["--print-keys"], &[]).stdout).unwrap();
    assert!(page.starts_with("# Configuration\n") && page.contains("| `port` |"), "{page}");
}

#[test]
fn who_reads_no_further_ends_no_command_in_an_error() {
    let config = config("");
    for arguments in [&["--help"][..], &["help", "config"], &["--print-keys"], &["--version"], &["check"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = shardgate(arguments, &[("CONFIG", &config)]).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_port_that_is_taken_names_its_key_and_a_clock_that_is_off_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = format!(
        r#","bind":"127.0.0.1","port":{},"shards":1,"api_url":"http://{}/api/v10""#,
        taken.local_addr().unwrap().port(),
        listener.local_addr().unwrap()
    );
    let discord = std::thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        read_head(&mut socket);
        let limit = r#"{"total":1000,"remaining":999,"reset_after":0,"max_concurrency":1}"#;
        let body = format!(r#"{{"url":"ws://127.0.0.1:9","shards":1,"session_start_limit":{limit}}}"#);
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n";
        write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let output = output(&[], &[("CONFIG", &config(&keys))]);
    discord.join().unwrap();
    let (log, line) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(log.contains("this machine's clock is ") && log.contains(" s ahead of Discord's"), "{log}");
    let address = taken.local_addr().unwrap();
    assert!(line.starts_with(&format!("shardgate: port: found {address}, but another program listens")), "{line}");
    assert!(line.contains("--takeover") && line.lines().count() == 1, "{line}");
}

#[test]
fn a_token_that_discord_refuses_ends_the_start_with_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(r#","api_url":"http://{}/api/v10""#, listener.local_addr().unwrap());
    let discord = std::thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        read_head(&mut socket);
        socket.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    let line = refusal(&[], &[("CONFIG", &config(&url))], 1);
    assert!(line.contains("/api/v10/gateway/bot: Discord refuses the token (401)"), "{line}");
    assert!(line.contains("Reset Token") && line.contains("`token_file`"), "{line}");
    discord.join().unwrap();
}

#[test]
fn a_signal_while_discord_does_not_answer_ends_the_program_cleanly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(r#","api_url":"http://{}""#, listener.local_addr().unwrap());
    let mut program =
        shardgate(&[], &[("CONFIG", &config(&url))]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its request has arrived, so it listens for signals; it is never answered.
    let mut socket = listener.accept().unwrap().0;
    read_head(&mut socket);
    let id = rustix::process::Pid::from_child(&program);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(program.wait().unwrap().success());
    let lines: Vec<_> = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(lines.last().unwrap().contains("stopped before the first core started"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(TOKEN)));
}

fn read_head(socket: &mut impl Read) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}
