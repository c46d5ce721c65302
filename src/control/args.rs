//! The command line: a handful of flags of its own, and one for each key of the configuration.
//!
//! Not here: what the keys are and what their values mean (`config`).

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use super::config::sources::{self, FlagValue};
use super::keys::nearest;

pub const HELP: &str = "\
shardgate: a Discord gateway proxy. Bots connect to it instead of Discord.

Usage: shardgate [OPTIONS]
       shardgate check [OPTIONS]
       shardgate health [OPTIONS]
       shardgate stats [OPTIONS]
       shardgate help config

check explains the configuration: what is not the default and where it is from, what the machine lacks, what would be used. It opens no connection.
health asks the proxy that runs here with this configuration whether every shard has a session; exit status 0 if so, else 1. With --live
       whether every core answers: for what restarts a proxy that hangs.
stats prints its totals of guilds, members, clients and events as JSON; exit status 0 if every shard is in them, else 1.
help config lists the keys of the configuration.

Options:
  --config PATH             Read the configuration from PATH; else from the environment variable CONFIG (a path, or
                            the JSON itself when it begins with `{`), else from config.json in the working directory
  --<key> VALUE             Any key of the configuration, such as --port 7878 or --cache-members true; so does the environment variable
                            SHARDGATE_<KEY>, such as SHARDGATE_PORT or SHARDGATE_CACHE_MEMBERS. Flags count more than variables, variables more than the file
  --check                   The same as the command check
  --takeover                Replace the running proxy that has the same `data_dir`: take its listening sockets over, so that no
                            connection is refused, let it drain and leave, and go on with its sessions
  --close-upstream-offline  When stopped, close Discord's connections with code 1000: the bot is shown offline at once,
                            and its sessions end. Without it they are kept for a RESUME
  --print-keys              Print the page of all keys, docs/configuration.md
  --help, -h                Print this text
  --version, -V             Print the version

Environment: CONFIG and SHARDGATE_<KEY> as above; TOKEN, the bot's token when the configuration has none; CREDENTIALS_DIRECTORY, systemd's, with a file token;
LISTEN_PID and LISTEN_FDS, the sockets of a systemd socket unit; SSL_CERT_FILE, SSL_CERT_DIR;
NOTIFY_SOCKET and WATCHDOG_USEC, a service manager's. SIGHUP reads the configuration again; SIGUSR2 writes the totals to a file, and the log says where.
Exit status: 0 stopped as asked, 1 refused to start or failed, 2 wrong arguments.
";

const FLAGS: [&str; 10] = [
    "--config",
    "--check",
    "--takeover",
    "--live",
    "--close-upstream-offline",
    "--print-keys",
    "--help",
    "-h",
    "--version",
    "-V",
];

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    /// The keys, for a terminal.
    HelpConfig,
    /// The keys, as `docs/configuration.md`.
    PrintKeys,
    Version,
    Run(Args),
    /// Ask the running proxy how it is.
    Health(Args),
    /// Ask it for its totals.
    Stats(Args),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub config: Option<PathBuf>,
    /// Keys of the configuration, in the order given.
    pub keys: Vec<FlagValue>,
    /// Explain only.
    pub check: bool,
    /// Take over from the running proxy.
    pub takeover: bool,
    /// Close Discord's connections with 1000 when draining.
    pub close_upstream_offline: bool,
    /// Of `health`: ask whether it is alive, not whether it is ready.
    pub live: bool,
}

/// A command that asks the running proxy.
enum Question {
    Health,
    Stats,
}

/// Reads the arguments, the program's name not among them. The error is one line for the operator.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::default();
    let mut question = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        match text.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "help" => return help(arguments.next()),
            "--version" | "-V" => return Ok(Command::Version),
            "--print-keys" => return Ok(Command::PrintKeys),
            "health" if question.is_none() => question = Some(Question::Health),
            "stats" if question.is_none() => question = Some(Question::Stats),
            "--check" | "check" => args.check = true,
            "--live" => args.live = true,
            "--takeover" => args.takeover = true,
            "--close-upstream-offline" => args.close_upstream_offline = true,
            "--config" => {
                let path = arguments.next().filter(|path| !path.is_empty()).ok_or("--config: a path must follow")?;
                args.config = Some(path.into());
            }
            _ => match text.strip_prefix("--config=") {
                Some("") => return Err("--config: a path must follow".into()),
                Some(path) => args.config = Some(path.into()),
                None => args.keys.push(key(&text, &mut arguments)?),
            },
        }
    }
    let live = args.live && matches!(question, Some(Question::Health));
    let may_be = Args { config: args.config.clone(), keys: args.keys.clone(), live, ..Args::default() };
    match question {
        None if args.live => Err("--live: only with health".into()),
        None => Ok(Command::Run(args)),
        Some(_) if args != may_be => Err(
            "health, stats: only --config and keys of the configuration may stand beside them, and --live beside health".into(),
        ),
        Some(Question::Health) => Ok(Command::Health(args)),
        Some(Question::Stats) => Ok(Command::Stats(args)),
    }
}

fn help(about: Option<OsString>) -> Result<Command, String> {
    match about.as_deref().and_then(|it| it.to_str()) {
        None => Ok(Command::Help),
        Some("config") => Ok(Command::HelpConfig),
        Some(other) => Err(format!("help: found `{}`, wanted `config` or nothing", shorten(other))),
    }
}

/// `--key VALUE` or `--key=VALUE`, where `--key` is a key of the configuration.
fn key(text: &str, rest: &mut impl Iterator<Item = OsString>) -> Result<FlagValue, String> {
    let (flag, joined) = match text.split_once('=') {
        Some((flag, value)) => (flag, Some(value.to_owned())),
        None => (text, None),
    };
    let name = sources::of_flag(flag).ok_or_else(|| unknown(flag))?;
    let value = match joined {
        Some(value) => Some(value),
        // What is no text cannot be the value of a key.
        None => rest.next().and_then(|it| it.into_string().ok()),
    };
    let value = value.filter(|it| !it.is_empty()).ok_or_else(|| format!("{flag}: a value must follow"))?;
    Ok((name, value))
}

fn shorten(text: &str) -> String {
    text.escape_debug().take(60).collect()
}

fn unknown(text: &str) -> String {
    let shown = shorten(text);
    let keys = sources::flags();
    let known: Vec<_> = FLAGS.into_iter().chain(keys.iter().map(String::as_str)).collect();
    match nearest(text, &known).filter(|_| text.starts_with('-')) {
        Some(near) => format!("unknown option `{shown}`; did you mean `{near}`? See --help"),
        None => format!("unexpected argument `{shown}`. See --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn no_arguments_mean_run() {
        assert_eq!(read(&[]), Ok(Command::Run(Args::default())));
    }

    #[test]
    fn each_flag_sets_its_field() {
        let all = read(&["--config", "a.json", "--check", "--takeover", "--close-upstream-offline"]);
        let config = Some("a.json".into());
        let expected =
            Args { config, keys: Vec::new(), check: true, takeover: true, close_upstream_offline: true, live: false };
        assert_eq!(all, Ok(Command::Run(expected)));
        let joined = Args { config: Some("b=c.json".into()), ..Args::default() };
        assert_eq!(read(&["--config=b=c.json"]), Ok(Command::Run(joined)));
    }

    #[test]
    fn help_and_version_win() {
        assert_eq!(read(&["--check", "-h"]), Ok(Command::Help));
        assert_eq!(read(&["-V", "--nonsense"]), Ok(Command::Version));
    }

    #[test]
    fn a_slip_is_told_with_the_nearest_flag() {
        assert_eq!(read(&["--chekc"]), Err("unknown option `--chekc`; did you mean `--check`? See --help".into()));
        assert_eq!(read(&["config.json"]), Err("unexpected argument `config.json`. See --help".into()));
    }

    #[test]
    fn health_takes_a_configuration_and_nothing_else() {
        assert_eq!(read(&["health"]), Ok(Command::Health(Args::default())));
        let with_config = Args { config: Some("a.json".into()), ..Args::default() };
        assert_eq!(read(&["health", "--config", "a.json"]), Ok(Command::Health(with_config)));
        assert_eq!(read(&["stats"]), Ok(Command::Stats(Args::default())));
        assert_eq!(read(&["health", "--live"]), Ok(Command::Health(Args { live: true, ..Args::default() })));
        let line = "health, stats: only --config and keys of the configuration may stand beside them, and --live beside health";
        assert_eq!(read(&["health", "--check"]), Err(line.into()));
        assert_eq!(read(&["stats", "--live"]), Err(line.into()));
        assert_eq!(read(&["--live"]), Err("--live: only with health".into()));
        assert!(read(&["health", "health"]).is_err() && read(&["stats", "health"]).is_err());
    }

    #[test]
    fn check_is_a_command_as_well_as_a_flag() {
        assert_eq!(read(&["check"]), read(&["--check"]));
        assert_eq!(read(&["help", "config"]), Ok(Command::HelpConfig));
        assert_eq!(read(&["help"]), Ok(Command::Help));
        assert_eq!(read(&["help", "me"]), Err("help: found `me`, wanted `config` or nothing".into()));
    }

    #[test]
    fn each_key_is_a_flag_with_a_value() {
        let keys = |arguments: &[&str]| match read(arguments) {
            Ok(Command::Run(args)) => Ok(args.keys),
            Ok(other) => panic!("{other:?}"),
            Err(line) => Err(line),
        };
        let given = keys(&["--port", "7", "--cache-members=true", "--data-dir", "a=b"]).unwrap();
        assert_eq!(given, [("port", "7".into()), ("cache.members", "true".into()), ("data_dir", "a=b".into())]);
        assert_eq!(keys(&["--port"]), Err("--port: a value must follow".into()));
        assert_eq!(keys(&["--port="]), Err("--port: a value must follow".into()));
        assert_eq!(keys(&["--prot", "7"]), Err("unknown option `--prot`; did you mean `--port`? See --help".into()));
        assert!(matches!(read(&["health", "--port", "7"]), Ok(Command::Health(_))));
    }

    #[test]
    fn no_key_hides_a_flag_of_the_programs_own() {
        assert!(FLAGS.iter().all(|flag| sources::of_flag(flag).is_none()));
    }

    #[test]
    fn a_config_without_path_is_refused() {
        for arguments in [&["--config"][..], &["--config="], &["--config", ""]] {
            assert_eq!(read(arguments), Err("--config: a path must follow".into()));
        }
    }

    #[test]
    fn the_help_names_every_flag() {
        for flag in FLAGS {
            assert!(HELP.contains(flag), "{flag}");
        }
    }
}
