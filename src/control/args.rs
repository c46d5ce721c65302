//! The command line: a handful of flags.
//!
//! What an operator configures stands in the configuration; only what differs from run to run is a flag.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use super::keys::nearest;

pub const HELP: &str = "\
shardgate: a Discord gateway proxy. Bots connect to it instead of Discord.

Usage: shardgate [OPTIONS]
       shardgate health [--config PATH]
       shardgate stats [--config PATH]

health asks the proxy that runs here with this configuration whether every shard has a session; exit status 0 if so, else 1.
stats prints its totals of guilds, members, clients and events as JSON; exit status 0 if every shard is in them, else 1.

Options:
  --config PATH             Read the configuration from PATH; else from the environment variable CONFIG (a path, or
                            the JSON itself when it begins with `{`), else from config.json in the working directory
  --check                   Check configuration and machine, print what would be used, and exit; opens no connection
  --takeover                Replace the running proxy that has the same `data_dir`: take its listening sockets over, so that no
                            connection is refused, let it drain and leave, and go on with its sessions
  --close-upstream-offline  When stopped, close Discord's connections with code 1000: the bot is shown offline at once,
                            and its sessions end. Without it they are kept for a RESUME
  --help, -h                Print this text
  --version, -V             Print the version

Environment: CONFIG as above; LISTEN_PID and LISTEN_FDS, the sockets of a systemd socket unit; TOKEN, the bot's token when the configuration has none; SSL_CERT_FILE, SSL_CERT_DIR.
Exit status: 0 stopped as asked, 1 refused to start or failed, 2 wrong arguments.
";

const FLAGS: [&str; 8] =
    ["--config", "--check", "--takeover", "--close-upstream-offline", "--help", "-h", "--version", "-V"];

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
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
    /// Validate only.
    pub check: bool,
    /// Take over from the running proxy.
    pub takeover: bool,
    /// Close Discord's connections with 1000 when draining.
    pub close_upstream_offline: bool,
}

/// Reads the arguments, the program's name not among them. The error is one line for the operator.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::default();
    let mut question: Option<fn(Args) -> Command> = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        match text.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            "health" if question.is_none() => question = Some(Command::Health),
            "stats" if question.is_none() => question = Some(Command::Stats),
            "--check" => args.check = true,
            "--takeover" => args.takeover = true,
            "--close-upstream-offline" => args.close_upstream_offline = true,
            "--config" => {
                let path = arguments.next().filter(|path| !path.is_empty()).ok_or("--config: a path must follow")?;
                args.config = Some(path.into());
            }
            _ => match text.strip_prefix("--config=") {
                Some("") => return Err("--config: a path must follow".into()),
                Some(path) => args.config = Some(path.into()),
                None => return Err(unknown(&text)),
            },
        }
    }
    match (question, args) {
        (Some(ask), args) if args == (Args { config: args.config.clone(), ..Args::default() }) => Ok(ask(args)),
        (Some(_), _) => Err("health, stats: only --config may stand beside them".into()),
        (None, args) => Ok(Command::Run(args)),
    }
}

fn unknown(text: &str) -> String {
    let shown: String = text.escape_debug().take(60).collect();
    match nearest(text, &FLAGS).filter(|_| text.starts_with('-')) {
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
        let expected =
            Args { config: Some("a.json".into()), check: true, takeover: true, close_upstream_offline: true };
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
        let line = "health, stats: only --config may stand beside them";
        assert_eq!(read(&["health", "--check"]), Err(line.into()));
        assert!(read(&["health", "health"]).is_err() && read(&["stats", "health"]).is_err());
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
