//! Readers of the values that no simple shape of the table describes, one function a key.
//!
//! A reader judges one value by itself. Not here: what concerns several keys at once (`config::join`).

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::{Config, CoresWanted, Notice};
use crate::control::access::AdminKey;
use crate::control::address;
use crate::control::keys::{Found, Refusal};
use crate::store::disk::Name;

use tracing::level_filters::LevelFilter;

const CPUS_MAX: u64 = 4096;
/// Three parts with dots between; real ones have 59 bytes and more.
const TOKEN_BYTES_MIN: usize = 40;

/// `activity`: what is in it is read together with `status`.
pub fn object(found: &Found<'_>, _: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    found.object().map(drop)
}

pub fn admin_key(found: &Found<'_>, config: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "a key of at least 16 printable characters without white space";
    config.admin_key = Some(AdminKey::new(found.text(WANTED)?).ok_or_else(|| found.refuse(WANTED))?);
    Ok(())
}

/// Whether there is a file, and what is in it, is seen when it is read.
pub fn path(found: &Found<'_>, into: &mut Option<PathBuf>) -> Result<(), Refusal> {
    const WANTED: &str = "the path of a PEM file";
    *into = Some(found.text(WANTED).map(PathBuf::from)?).filter(|it| !it.as_os_str().is_empty());
    if into.is_none() { Err(found.refuse(WANTED)) } else { Ok(()) }
}

/// The file itself is opened only if the token is taken from it. A path is shown in messages, so the token itself must not be taken for one.
pub fn token_file(found: &Found<'_>, _: &mut Config, _: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "the path of a file with the token";
    let path = found.text(WANTED)?;
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let looks_so = path.len() >= TOKEN_BYTES_MIN && path.matches('.').count() == 2 && path.bytes().all(is_of_token);
    match looks_so && !std::path::Path::new(path).exists() {
        true => Err(Refusal::new(found.key(), "what looks like a token", WANTED)),
        false => Ok(()),
    }
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

/// What a proxy has left in its `data_dir`.
fn files_of_ours(data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    const OTHERS: [&str; 4] = ["lock", "gateway", "budget", "loads"];
    let is_ours = |name: &OsStr| name.to_str().is_some_and(|it| OTHERS.contains(&it) || it.parse::<Name>().is_ok());
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    entries.filter(move |it| is_ours(&it.file_name())).map(|it| it.path())
}

/// It holds what clients were told and Discord's sessions, so nobody else may write there.
pub fn data_dir(found: &Found<'_>, config: &mut Config, notices: &mut Vec<Notice>) -> Result<(), Refusal> {
    const WANTED: &str = "a directory that exists and can be written";
    let path = std::path::PathBuf::from(found.text(WANTED)?);
    let writable = rustix::fs::access(&path, Access::WRITE_OK | Access::EXEC_OK);
    if !path.is_dir() || writable.is_err() {
        return Err(found.refuse(WANTED));
    }
    let may_use =
        |file: &Path| !matches!(rustix::fs::access(file, Access::READ_OK | Access::WRITE_OK), Err(Errno::ACCESS));
    if let Some(file) = files_of_ours(&path).find(|it| !may_use(it)) {
        let user = rustix::process::geteuid().as_raw();
        let wanted = format_args!(
            "files that user {user}, as whom this runs, may read and write; remedy: `chown -R {user} {}`",
            path.display()
        );
        return Err(Refusal::new(found.key(), file.display(), wanted));
    }
    if path.metadata().is_ok_and(|it| it.permissions().mode() & 0o002 != 0) {
        let line =
            "anybody on this machine may write to `data_dir`, and have false events told to bots; remedy: chmod 700";
        notices.push(Notice::Warning(format!("{line} {}", path.display())));
    }
    config.data_dir = Some(path);
    Ok(())
}
