//! Where values come from: flags, then environment variables, then the file. What stands further ahead counts.
//!
//! Everything becomes one flat map from a key's name to a value and the place where it was found. Not here: what values mean (`table`), and
//! the other places of the token (`token`).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::table::{self, IGNORED, Key, Shape};
use super::{Notice, token};
use crate::control::keys::{Found, Refusal, unknown_line};

/// Read when neither the command line nor the environment names another.
const DEFAULT_PATH: &str = "config.json";
/// A configuration is a page of text; a path to something endless must not fill the memory.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// In front of each variable that is a key.
const PREFIX: &str = "SHARDGATE_";

/// The part of the process's environment that the configuration depends on.
#[derive(Clone, Default)]
pub struct Environment {
    /// `CONFIG`: a path, or the JSON itself when it begins with `{`.
    pub config: Option<String>,
    /// `TOKEN`
    pub token: Option<String>,
    /// All whose names begin with `SHARDGATE_`, sorted by name.
    pub variables: Vec<(String, String)>,
    /// `CREDENTIALS_DIRECTORY`, set by systemd.
    pub credentials: Option<PathBuf>,
    /// Where Docker puts secrets.
    pub secrets: Option<PathBuf>,
}

impl Environment {
    pub fn of_process() -> Self {
        let text = |name| std::env::var(name).ok();
        let is_ours = |name: &str| name.starts_with(PREFIX);
        let mut variables: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .filter(|(name, _)| is_ours(name))
            .collect();
        variables.sort();
        Self {
            config: text("CONFIG"),
            token: text("TOKEN"),
            variables,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            secrets: Some(token::DOCKER_SECRETS.into()),
        }
    }
}

/// A key from the command line and its text.
pub type FlagValue = (&'static str, String);

/// Where a value stood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The path, or `CONFIG`.
    File(String),
    Variable(String),
    Flag(String),
}

impl Source {
    /// For a page: `config.json`, `SHARDGATE_PORT`, `--port`.
    pub fn name(&self) -> &str {
        let (Self::File(name) | Self::Variable(name) | Self::Flag(name)) = self;
        name
    }

    /// What goes before what; of one rank are all values of the file, of the environment, of the command line.
    pub fn rank(&self) -> u8 {
        match self {
            Self::File(_) => 0,
            Self::Variable(_) => 1,
            Self::Flag(_) => 2,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Given {
    pub value: Value,
    pub source: Source,
}

/// All that was given, by key.
#[derive(Clone, Debug, Default)]
pub struct Values {
    pub given: BTreeMap<&'static str, Given>,
    /// The file that was read, if one was: its path, or `CONFIG`.
    pub file: Option<String>,
}

impl Values {
    /// The value of a key; a `null` that means the same as nothing is nothing.
    pub fn found(&self, key: &Key) -> Option<Found<'_>> {
        let given = self.given.get(key.name)?;
        if given.value.is_null() && key.is_nullable() {
            return None;
        }
        let label = match &given.source {
            Source::File(_) => key.name,
            Source::Variable(name) | Source::Flag(name) => name,
        };
        let found = Found::new(label, &given.value);
        Some(if key.is_secret { found.secret() } else { found })
    }

    /// The same by name; `name` is a row of the table.
    pub fn get(&self, name: &str) -> Option<Found<'_>> {
        self.found(table::find(name)?)
    }

    /// The refusal of a value of this key, told where it stands: in the file, if it is not from elsewhere.
    pub fn told(&self, name: &str, refusal: Refusal) -> Refusal {
        match self.given.get(name).map(|it| &it.source) {
            Some(Source::File(file)) => refusal.within(file),
            Some(_) => refusal,
            None => match &self.file {
                Some(file) => refusal.within(file),
                None => refusal,
            },
        }
    }

    fn give(&mut self, key: &'static Key, value: Value, source: Source) {
        self.given.insert(key.name, Given { value, source });
    }
}

/// Reads the file, if there is one, and puts variables and flags over it. What is not known is a warning.
///
/// The file: `path`, else env `CONFIG`, else `config.json` in the working directory. That last one need not be there when anything is given by
/// variable or flag.
pub fn collect(
    path: Option<&Path>,
    environment: &Environment,
    flags: &[FlagValue],
) -> Result<(Values, Vec<Notice>), Refusal> {
    let (mut values, mut notices) = (Values::default(), Vec::new());
    let has_others = !flags.is_empty() || environment.variables.iter().any(|(name, _)| of_variable(name).is_some());
    if let Some((file, text)) = file(path, environment, has_others)? {
        put_file(&file, &text, &mut values, &mut notices).map_err(|refusal| refusal.within(&file))?;
        values.file = Some(file);
    }
    put_variables(&environment.variables, &mut values, &mut notices)?;
    for (name, text) in flags {
        put(name, text, &Source::Flag(table::flag(name)), &mut values, &mut notices)?;
    }
    Ok((values, notices))
}

/// The configuration's file, which a reload looks at; `None` when the text stands in the environment.
pub fn file_path(path: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    match (path, environment.config.as_deref().filter(|it| !it.is_empty())) {
        (Some(path), _) => Some(path.to_owned()),
        (None, Some(json)) if json.trim_start().starts_with('{') => None,
        (None, Some(path)) => Some(path.into()),
        (None, None) => Some(DEFAULT_PATH.into()),
    }
}

fn file(
    path: Option<&Path>,
    environment: &Environment,
    has_others: bool,
) -> Result<Option<(String, Vec<u8>)>, Refusal> {
    let Some(found) = file_path(path, environment) else {
        let json = environment.config.as_deref().unwrap_or_default();
        return Ok(Some(("CONFIG".to_owned(), json.as_bytes().to_vec())));
    };
    let is_named = path.is_some() || environment.config.as_deref().is_some_and(|it| !it.is_empty());
    if !is_named && has_others && !found.exists() {
        return Ok(None);
    }
    Ok(Some((found.display().to_string(), read_file(&found)?)))
}

/// Why a file could not be opened. In a container the user is seldom the one who made the file.
pub(super) fn unreadable(error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error.to_string();
    }
    let user = rustix::process::geteuid().as_raw();
    format!("{error}: user {user}, as whom this runs, may not read it; remedy: `chown {user}` the file")
}

fn read_file(path: &Path) -> Result<Vec<u8>, Refusal> {
    let wanted = "a readable file, named by --config PATH or CONFIG, or config.json in the working directory, or SHARDGATE_* variables alone";
    let refuse = |found: String| Refusal::new(&path.display().to_string(), found, wanted);
    let file = std::fs::File::open(path).map_err(|error| refuse(unreadable(&error)))?;
    let mut text = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(refuse(format!("more than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn put_file(file: &str, text: &[u8], values: &mut Values, notices: &mut Vec<Notice>) -> Result<(), Refusal> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let value: Value = serde_json::from_slice(text).map_err(|error| syntax_refusal(&error))?;
    let Value::Object(map) = value else {
        return Err(Refusal::of("the JSON text is not an object: wanted {\"token\": …, \"intents\": …}"));
    };
    let source = Source::File(file.to_owned());
    let top: Vec<_> = table::keys().map(|key| key.name).filter(|name| !name.contains('.')).collect();
    let known = [&top[..], &table::groups(), &IGNORED].concat();
    for (name, value) in map {
        match table::find(&name).filter(|_| !name.contains('.')) {
            Some(key) => values.give(key, value, source.clone()),
            None if table::groups().contains(&name.as_str()) => put_group(&name, value, &source, values, notices)?,
            None if IGNORED.contains(&name.as_str()) => {}
            None => notices.push(Notice::Warning(unknown_line("", &name, &known))),
        }
    }
    Ok(())
}

fn syntax_refusal(error: &serde_json::Error) -> Refusal {
    let (line, column, text) = (error.line(), error.column(), error.to_string());
    let what = text.split(" at line ").next().unwrap_or_default();
    Refusal::of(format!("line {line}, column {column}: not JSON: {what}"))
}

/// An object whose keys are rows of their own.
fn put_group(
    group: &str,
    value: Value,
    source: &Source,
    values: &mut Values,
    notices: &mut Vec<Notice>,
) -> Result<(), Refusal> {
    let label = if source.rank() == 0 { group } else { source.name() };
    let map: &Map<String, Value> = Found::new(label, &value).object()?;
    let known: Vec<_> = table::keys().filter_map(|key| key.name.strip_prefix(group)?.strip_prefix('.')).collect();
    for (name, value) in map {
        match table::find(&format!("{group}.{name}")) {
            Some(key) => values.give(key, value.clone(), source.clone()),
            None => notices.push(Notice::Warning(unknown_line(&format!("{group}."), name, &known))),
        }
    }
    Ok(())
}

fn put_variables(
    variables: &[(String, String)],
    values: &mut Values,
    notices: &mut Vec<Notice>,
) -> Result<(), Refusal> {
    let known: Vec<_> = names().map(table::variable).collect();
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    // A group comes before its keys, whose names are longer, so that a single key counts more.
    for (variable, text) in variables {
        match of_variable(variable) {
            // What a compose file makes of a variable that is not set.
            Some(_) if text.is_empty() => {}
            Some("port") if is_service_link(text) => notices.push(Notice::Note(
                "SHARDGATE_PORT is Kubernetes' own word for a service named `shardgate`, not our key: `enableServiceLinks: false` leaves it out".into(),
            )),
            Some(name) => put(name, text, &Source::Variable(variable.clone()), values, notices)?,
            None if is_kubernetes_own(variable) || is_service_link(text) => {}
            None => notices.push(Notice::Warning(unknown_line("", variable, &known).replace("unknown key", "unknown variable"))),
        }
    }
    Ok(())
}

/// For each service a cluster tells its pods `NAME_PORT=tcp://ADDRESS:PORT`, and more.
fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

fn is_kubernetes_own(variable: &str) -> bool {
    // The service may have a longer name than ours: `shardgate-pods`.
    ["SERVICE_HOST", "SERVICE_PORT", "PORT_"].iter().any(|word| variable.contains(&format!("_{word}")))
}

/// Names of keys, groups among them.
fn names() -> impl Iterator<Item = &'static str> {
    table::groups().into_iter().chain(table::keys().map(|key| key.name))
}

fn of_variable(variable: &str) -> Option<&'static str> {
    names().find(|name| table::variable(name) == variable)
}

/// The key or group that a flag such as `--cache-members` gives.
pub fn of_flag(flag: &str) -> Option<&'static str> {
    names().find(|name| table::flag(name) == flag)
}

/// All flags of keys and groups.
pub fn flags() -> Vec<String> {
    names().map(table::flag).collect()
}

/// Takes a text as the value of a key or group.
fn put(
    name: &'static str,
    text: &str,
    source: &Source,
    values: &mut Values,
    notices: &mut Vec<Notice>,
) -> Result<(), Refusal> {
    match table::find(name) {
        Some(key) => values.give(key, value_of(key, text), source.clone()),
        None => put_group(name, json_or_text(text), source, values, notices)?,
    }
    Ok(())
}

fn value_of(key: &Key, text: &str) -> Value {
    match key.shape {
        Shape::Text { .. } | Shape::Word { .. } => Value::String(text.to_owned()),
        Shape::Boolean(_) | Shape::Integer { .. } | Shape::Json { .. } => json_or_text(text),
    }
}

/// What is no JSON stays a text, which a refusal can show.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
