//! The table of keys for people: `docs/configuration.md`, and the listing of `shardgate help config`.
//!
//! Both are made of `table` alone, so they cannot be wrong about it; a test compares the file.

use std::fmt::Write;

use super::table::{self, Key, Reload, SECTIONS};

/// The columns of the listing.
const WIDTH: usize = 120;

const INTRODUCTION: &str = "\
# Configuration
This page is made by `shardgate --print-keys > docs/configuration.md` from the table in the code.

A value comes from, in this order:
1. a flag: `--port 7878` or `--port=7878`, `--cache-members true`;
2. an environment variable: `SHARDGATE_PORT=7878`, `SHARDGATE_CACHE_MEMBERS=true`, `SHARDGATE_ACTIVITY='{\"name\":\"chess\"}'`; an empty one counts as none;
3. the file: `config.json` in the working directory, or `--config PATH`, or the variable `CONFIG` (a path, or the JSON itself);
4. the default.

The name of a flag is the key's with dashes, the name of a variable `SHARDGATE_` and the key in capitals; of `cache` also as a whole, as JSON. With
variables or flags alone no file is needed. A value that is wrong refuses the start with one line: key, found, wanted. An unknown key or variable is a warning that names the nearest known one.
`shardgate check` shows which values are not the default, where each is from, and what would be used on this machine.

## The token
Looked for in this order; the first place that has one counts:
1. `token` or `token_file`, by flag, by variable, in the file (in the same place `token` goes before `token_file`);
2. the environment variable `TOKEN`;
3. `$CREDENTIALS_DIRECTORY/token`: systemd's `LoadCredential=token:/etc/shardgate/token`;
4. `/run/secrets/shardgate_token`: Docker's secret of that name.

A file has the token and nothing else; white space around it does not count. It is never shown, by no page, line or error.

## Reload
SIGHUP reads everything again, and so does a change of the file (looked for every few seconds; a symbolic link that is swapped, as Kubernetes does, is a change too). Keys marked
**at once** take effect, connections stay. A change of any other is named in the log and not taken: the running value stays until a restart. A file that is wrong changes nothing.
A restart with a change of a key marked **new sessions** costs every session in `data_dir`: an IDENTIFY per shard, and clients start over. Look at `shardgate_identify_remaining` first. Of `cache` only
what is switched on costs that.
";

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {}\n| key | shape | default | reload | |\n|---|---|---|---|---|\n", section.title);
        for key in section.keys {
            let reload = match key.reload {
                Reload::AtOnce => "at once",
                Reload::Restart => "",
                Reload::NewSessions => "new sessions",
            };
            let (shape, default) = (key.shape_text(), default(key));
            let _ = writeln!(page, "| `{}` | {shape} | {default} | {reload} | {} |", key.name, key.meaning);
        }
    }
    page
}

/// `shardgate help config`.
pub fn listing() -> String {
    let mut page = String::from(
        "Each key stands in the file, or in the variable SHARDGATE_<KEY>, or follows its flag. Flags count more than variables, those more\n\
         than the file. * takes effect on SIGHUP or when the file changes; the others need a restart, which with ! costs every session.\n",
    );
    for section in SECTIONS {
        let _ = write!(page, "\n{}:\n", section.title);
        for key in section.keys {
            let mark = match key.reload {
                Reload::AtOnce => "*",
                Reload::Restart => " ",
                Reload::NewSessions => "!",
            };
            let _ = writeln!(
                page,
                "  {} {mark} {}; default: {}",
                table::flag(key.name),
                plain(&key.shape_text()),
                plain(&key.default_text())
            );
            for line in wrap(&plain(key.meaning), WIDTH - 6) {
                let _ = writeln!(page, "      {line}");
            }
        }
    }
    page
}

/// With the marks of code where it is a value, not a sentence.
fn default(key: &Key) -> String {
    match key.otherwise {
        table::Otherwise::Value(_) => format!("`{}`", key.default_text()),
        table::Otherwise::Unset(_) | table::Otherwise::Refused => key.default_text(),
    }
}

/// Without the marks of Markdown.
fn plain(text: &str) -> String {
    let mut plain = text.replace('`', "");
    while let Some((before, link)) = plain.split_once('[') {
        let Some((shown, rest)) = link.split_once("](") else { break };
        let Some((_, after)) = rest.split_once(')') else { break };
        plain = format!("{before}{shown}{after}");
    }
    plain
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "docs/configuration.md is not what the table says: renew it with `cargo run -- --print-keys > docs/configuration.md`"
        );
    }

    #[test]
    fn the_listing_names_every_key_and_has_no_marks() {
        let page = listing();
        for key in table::keys() {
            assert!(page.contains(&format!("  {} ", table::flag(key.name))), "{}", key.name);
        }
        assert!(!page.contains(['`', '[']), "{page}");
    }

    #[test]
    fn a_text_is_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(plain("see [`the page`](x.md)."), "see the page.");
    }
}
