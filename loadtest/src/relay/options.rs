//! The settings of `loadtest relay` and their names on the command line.

use std::path::PathBuf;

use super::Kind;
use crate::args::{Args, Spec};

pub const SPECS: &[Spec] = &[
    ("kind", Some("NAME"), "epoll, ring or glommio; default epoll"),
    ("to", Some("ADDR"), "where each connection goes, as 127.0.0.1:PORT"),
    ("pairs", Some("N"), "connections that are taken; relaying begins with the last one; default 225"),
    ("cores", Some("N"), "threads, one on each of the first CPUs; default all"),
    ("ready-file", Some("PATH"), "write the address there when it listens"),
];

#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub to: String,
    pub pairs: usize,
    pub cores: usize,
    pub ready_file: Option<PathBuf>,
}

impl Options {
    /// Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let all = core_affinity::get_core_ids().map_or(1, |it| it.len());
        let options = Self {
            kind: args.get("kind", Kind::Epoll)?,
            to: args.text("to").ok_or("--to is missing, wanted ADDRESS:PORT")?.to_owned(),
            pairs: args.get("pairs", 225)?,
            cores: args.get("cores", all)?,
            ready_file: args.text("ready-file").map(PathBuf::from),
        };
        if options.pairs == 0 || options.cores == 0 {
            return Err("--pairs and --cores must be at least 1".to_owned());
        }
        Ok(options)
    }
}
