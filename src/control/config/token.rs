//! The bot's token: what counts as one, and the places where it is looked for. It is never shown.
//!
//! In this order: `token` and `token_file` by flag, by variable, in the file; the environment variable TOKEN; systemd's credential `token`;
//! Docker's secret `shardgate_token`.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Notice;
use super::sources::{self, Environment, Values};
use crate::control::keys::Refusal;

/// Where Docker puts secrets, readable by all who are in the container.
pub const DOCKER_SECRETS: &str = "/run/secrets";
/// Its name there.
const DOCKER_SECRET: &str = "shardgate_token";
/// Its name among systemd's credentials.
const CREDENTIAL: &str = "token";
/// Tokens have 70 bytes or so.
const FILE_BYTES_MAX: u64 = 4096;

const WANTED: &str = "the bot's token (developer portal › Bot › Reset Token): in `token`, in a file named by `token_file`, or in the environment variable TOKEN";
const MALFORMED: &str = "a token of printable characters without white space";

/// The bot's token without the prefix `Bot `. It cannot be printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Token(String);

impl Token {
    /// Strips a leading `Bot `; `None` for what cannot be a token: nothing, white space, control characters.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("Bot ").unwrap_or(text).trim_start();
        let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        printable.then(|| Self(text.to_owned()))
    }

    /// The secret itself, for IDENTIFY and for the REST header, and for nothing that is shown.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The token, and the place it is from, for people.
pub fn find(values: &Values, environment: &Environment, notices: &mut Vec<Notice>) -> Result<(Token, String), Refusal> {
    if let Some(found) = from_keys(values, notices)? {
        return Ok(found);
    }
    if let Some(text) = environment.token.as_deref().filter(|text| !text.is_empty()) {
        let token = Token::new(text).ok_or_else(|| Refusal::new("TOKEN", "another string", MALFORMED))?;
        return Ok((token, "TOKEN".into()));
    }
    let places = [(&environment.credentials, CREDENTIAL), (&environment.secrets, DOCKER_SECRET)];
    for (folder, name) in places {
        let Some(path) = folder.as_ref().map(|it| it.join(name)).filter(|it| it.exists()) else { continue };
        let shown = path.display().to_string();
        let token = from_file(&path, &shown)?;
        notices.push(Notice::Note(format!("the token is the one in {shown}")));
        return Ok((token, shown));
    }
    let found = match values.given.get("token").map(|it| &it.value) {
        None => "nothing",
        Some(serde_json::Value::Null) => "null",
        Some(_) => "an empty string",
    };
    Err(values.told("token", Refusal::new("token", found, WANTED)))
}

/// `token` or `token_file`, whichever is from further ahead; `token` of two from the same place. An empty `token` counts as none: the example
/// of gateway-proxy has one, for the operator to fill in.
fn from_keys(values: &Values, notices: &mut Vec<Notice>) -> Result<Option<(Token, String)>, Refusal> {
    let rank = |name| values.given.get(name).map(|it| it.source.rank());
    let text = match values.get("token") {
        Some(found) => Some(found.text(WANTED).map_err(|it| values.told("token", it))?).filter(|it| !it.is_empty()),
        None => None,
    };
    let file = values.get("token_file");
    if let Some(text) = text.filter(|_| file.is_none() || rank("token") >= rank("token_file")) {
        if file.is_some() && rank("token") == rank("token_file") {
            notices.push(Notice::Warning("`token` and `token_file` are both given; `token` counts".into()));
        }
        let source = values.given["token"].source.clone();
        if source.rank() == 2 {
            let line = "--token: all users of this machine can read a program's arguments; `token_file` keeps the token to itself";
            notices.push(Notice::Warning(line.into()));
        }
        let label = if source.rank() == 0 { "token" } else { source.name() };
        let malformed = || values.told("token", Refusal::new(label, "another string", MALFORMED));
        return Ok(Some((Token::new(text).ok_or_else(malformed)?, source.name().to_owned())));
    }
    let Some(found) = file else { return Ok(None) };
    let path = found.text("the path of a file with the token").map_err(|it| values.told("token_file", it))?;
    let told = |refusal| values.told("token_file", refusal);
    let token = from_file(Path::new(path), &format!("{}: {path}", found.key())).map_err(told)?;
    warn_if_open(Path::new(path), notices);
    Ok(Some((token, path.to_owned())))
}

/// `label` is the file for people, and what named it.
fn from_file(path: &Path, label: &str) -> Result<Token, Refusal> {
    let wanted = "a readable file with the token and nothing else";
    let refuse = |found: String| Refusal::new(label, found, wanted);
    let file = std::fs::File::open(path).map_err(|error| refuse(sources::unreadable(&error)))?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(text).map_err(|_| refuse("bytes that are no text".into()))?;
    if text.trim().is_empty() {
        return Err(refuse("an empty file".into()));
    }
    Token::new(&text).ok_or_else(|| Refusal::new(label, "another text", MALFORMED))
}

fn warn_if_open(path: &Path, notices: &mut Vec<Notice>) {
    // Docker's are readable by all who are in the container, which is nobody else.
    let is_open = std::fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o004 != 0);
    if is_open && !path.starts_with(DOCKER_SECRETS) {
        let line = format!("token_file: {} can be read by every user of this machine: `chmod 600` it", path.display());
        notices.push(Notice::Warning(line));
    }
}
