//! Readers of the values that no simple shape of the table describes, one function a key.
//!
//! A reader judges one value by itself. Not here: what concerns several keys at once (`config::join`).

use super::{Config, CoresWanted, Notice};
use crate::control::address;
use crate::control::keys::{Found, Refusal};

use tracing::level_filters::LevelFilter;

const CPUS_MAX: u64 = 4096;

/// `activity`: what is in it is read together with `status`.
pub fn object(found: &Found<'_>, _: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    found.object().map(drop)
}

/// A key that is known, and that nothing may be given for.
pub fn none(found: &Found<'_>, _: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    Err(found.refuse("no such key: this version connects to Discord directly only"))
}

/// The file itself is opened only if the token is taken from it.
pub fn token_file(found: &Found<'_>, _: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    found.text("the path of a file with the token").map(drop)
}

pub fn log_level(found: &Found<'_>) -> Result<LevelFilter, Refusal> {
    const WANTED: &str = "one of \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"off\"";
    found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))
}

pub fn bind(found: &Found<'_>, config: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "an IP address such as \"0.0.0.0\" or \"::\"";
    config.bind = found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))?;
    Ok(())
}

/// Port 0 is a free one; the log names it.
pub fn admin_bind(found: &Found<'_>, config: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "an IP address and a port such as \"127.0.0.1:7879\" or \"[::1]:7879\"";
    config.admin_bind = Some(found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))?);
    Ok(())
}

pub fn externally_accessible_url(
    found: &Found<'_>,
    config: &mut Config,
    notices: &mut Vec<Notice>,
) -> Result<(), Refusal> {
    config.externally_accessible_url = address::websocket_url(found, notices)?;
    Ok(())
}

pub fn cores(found: &Found<'_>) -> Result<CoresWanted, Refusal> {
    let refuse = || found.refuse(format_args!("a number of cores from 1, or a list of different CPU numbers from 0"));
    if let Some(count) = found.value().as_u64() {
        return if (1..=CPUS_MAX).contains(&count) { Ok(CoresWanted::Count(count as usize)) } else { Err(refuse()) };
    }
    let list = found.value().as_array().filter(|list| !list.is_empty()).ok_or_else(refuse)?;
    let mut cpus = Vec::with_capacity(list.len());
    for cpu in list {
        let cpu = cpu.as_u64().filter(|cpu| *cpu < CPUS_MAX).ok_or_else(refuse)? as usize;
        if cpus.contains(&cpu) {
            return Err(refuse());
        }
        cpus.push(cpu);
    }
    Ok(CoresWanted::List(cpus))
}

pub fn data_dir(found: &Found<'_>, config: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "a writable directory";
    let path = std::path::PathBuf::from(found.text(WANTED)?);
    let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    if !path.is_dir() || writable.is_err() {
        return Err(found.refuse(WANTED));
    }
    config.data_dir = Some(path);
    Ok(())
}
