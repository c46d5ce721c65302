//! The commands of the load test: `discord`, `client`, `run`, `chaos`, `memory`, `churn`, `identify`, `report`,
//! `floor`, `compare`, `relay`. Each has `--help`.

use std::process::ExitCode;

use loadtest::args::{Args, Spec, usage};
use loadtest::{chaos, client, discord, relay, report, run, state};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, words)) = words.split_first() else { return help() };
    let result = match command.as_str() {
        "discord" => with_args(command, "a fake Discord, gateway and REST", discord::options::SPECS, words, |args| {
            let options = discord::options::Options::from_args(args)?;
            block_on(async { discord::command(options).await.map(|()| true) })
        }),
        "client" => {
            with_args(command, "one client alone, checking every promise", client::options::SPECS, words, |args| {
                let settings = client::options::settings(args)?;
                block_on(client::watch::watch(settings, args.get("seconds", 0)?))
            })
        }
        "run" => {
            with_args(command, "fake Discord, proxy and clients, and a verdict", run::options::SPECS, words, |args| {
                block_on(run::run(run::options::Options::from_args(args)?))
            })
        }
        "memory" => {
            with_args(command, "what the cached state costs, as a table", state::options::SPECS, words, |args| {
                block_on(state::memory::run(state::options::Options::from_args(args)?))
            })
        }
        "churn" => {
            with_args(command, "whether memory and state stay right for long", state::options::SPECS, words, |args| {
                block_on(state::churn::run(state::options::Options::of_churn(args)?))
            })
        }
        "identify" => {
            with_args(command, "every client gets its whole state at once", state::options::SPECS, words, |args| {
                block_on(state::identify::run(state::options::Options::from_args(args)?))
            })
        }
        "chaos" => with_args(
            command,
            "everything goes wrong, by a seed, and nothing is lost",
            chaos::options::SPECS,
            words,
            |args| block_on(chaos::chaos(chaos::options::Options::from_args(args)?)),
        ),
        "report" => {
            with_args(command, "everything measured, as a page", report::options::REPORT_SPECS, words, |args| {
                block_on(report::report(report::options::Options::from_args(args)?))
            })
        }
        "floor" => with_args(command, "the proxy beside a bare relay", report::options::FLOOR_SPECS, words, |args| {
            block_on(report::floor(report::options::Options::from_args(args)?))
        }),
        "compare" => compare(words),
        "relay" => with_args(
            command,
            "the floor: bytes from socket to socket, until standard input closes",
            relay::options::SPECS,
            words,
            |args| {
                relay::command(&relay::options::Options::from_args(args)?).map_err(|it| it.to_string())?;
                Ok(ExitCode::SUCCESS)
            },
        ),
        _ => return help(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest {command}: {error}");
            ExitCode::from(2)
        }
    }
}

fn help() -> ExitCode {
    eprintln!(
        "loadtest discord | client | run | chaos | memory | churn | identify | report | floor | compare | relay, each with --help"
    );
    ExitCode::from(2)
}

/// The one command with arguments that have no name.
fn compare(words: &[String]) -> Result<ExitCode, String> {
    if words.iter().any(|it| it == "--help") {
        println!("loadtest compare A.json B.json: the figures of two reports side by side, with their noise");
        return Ok(ExitCode::SUCCESS);
    }
    let [before, after] = words else {
        return Err("wanted the JSONs of two reports: loadtest compare A.json B.json".to_owned());
    };
    report::compare(before.as_ref(), after.as_ref()).map_err(|it| it.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn with_args(
    command: &str,
    about: &str,
    specs: &[Spec],
    words: &[String],
    run: impl FnOnce(&Args) -> Result<ExitCode, String>,
) -> Result<ExitCode, String> {
    if words.iter().any(|it| it == "--help") {
        print!("{}", usage(command, about, specs));
        return Ok(ExitCode::SUCCESS);
    }
    run(&Args::parse(words, specs)?)
}

/// Runs `command` on this thread, with tasks that need not be `Send`. It answers whether all was well.
fn block_on(command: impl Future<Output = std::io::Result<bool>>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
    let tasks = tokio::task::LocalSet::new();
    match tasks.block_on(&runtime, command) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.to_string()),
    }
}
