//! The program: reads the arguments, introduces the layers to each other, and leaves.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::mpsc::Sender;

use shardgate::control::args::{self, Command, HELP};
use shardgate::control::config::{Environment, document};
use shardgate::control::{self, Cores, health};
use shardgate::runtime::mesh::{CoreSender, ToControl};
use shardgate::runtime::{self, settings::RuntimeSettings};
use shardgate::wire::ShardId;

/// Measured against the system's allocator in a churn of two threads: 31 to 48 ns where glibc needs 157 to 172.
#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

/// Wrong arguments.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // First of all: afterwards the numbers may be those of other files.
    let activated = runtime::activation::take();
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => control::show(HELP),
        Ok(Command::HelpConfig) => control::show(&document::listing()),
        Ok(Command::PrintKeys) => control::show(&document::markdown()),
        Ok(Command::Version) => control::show(concat!("shardgate ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Health(args)) => return health::ask(&args, &Environment::of_process()),
        Ok(Command::Stats(args)) => return health::ask_stats(&args, &Environment::of_process()),
        Ok(Command::Run(args)) => match activated {
            Ok(listeners) => return control::run(&args, &Environment::of_process(), listeners, start),
            Err(line) => {
                eprintln!("shardgate: {line}");
                return ExitCode::FAILURE;
            }
        },
        Err(line) => {
            eprintln!("shardgate: {line}");
            return ExitCode::from(USAGE);
        }
    }
    ExitCode::SUCCESS
}

fn start(
    settings: RuntimeSettings,
    inherited: Vec<OwnedFd>,
    to_control: Sender<ToControl>,
) -> io::Result<Cores<CoreSender>> {
    let running = runtime::start(&settings, inherited, to_control)?;
    let placement = running.placement;
    // Every shard that sends mail is held by some core.
    let core_of = Box::new(move |shard: ShardId| placement.place(shard.0).map_or(0, |(core, _)| core));
    let (listen, listeners) = (running.listen, running.listeners);
    Ok(Cores { senders: running.cores, threads: running.threads, core_of, listen, listeners })
}
