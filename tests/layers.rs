//! The layers look one way only: what a folder under `src/` may use, checked against what its files name.

use std::fs;
use std::path::{Path, PathBuf};

const MAY_USE: [(&str, &[&str]); 7] = [
    ("wire", &[]),
    ("session", &["wire"]),
    ("cache", &["wire"]),
    ("store", &["wire"]),
    ("shard", &["wire", "session", "cache", "store"]),
    ("runtime", &["wire", "session", "cache", "store", "shard"]),
    ("control", &["wire", "session", "cache", "store", "shard", "runtime"]),
];

#[test]
fn no_layer_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (layer, may_use) in MAY_USE {
        for file in rust_files(&src.join(layer)) {
            let text = fs::read_to_string(&file).unwrap();
            let used = used_layers(&text);
            let upward = used.into_iter().filter(|it| it != layer && !may_use.contains(&it.as_str()));
            wrong.extend(upward.map(|it| format!("{} uses crate::{it}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_is_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap().map(Result::unwrap).filter(|it| it.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(MAY_USE.iter().any(|(layer, _)| *layer == name), "src/{name} is no layer");
    }
}

#[test]
fn the_check_sees_paths_groups_and_aliases() {
    let found = |text| used_layers(text);
    assert_eq!(found("use crate::wire::ShardId;"), ["wire"]);
    assert_eq!(found("let x = crate::control::config::load();"), ["control"]);
    assert_eq!(
        found("use crate::{\n    cache::{self, Flags}, // crate::shard\n    runtime as it,\n};"),
        ["cache", "runtime"]
    );
    assert_eq!(found("pub(in crate::shard) fn x() {}"), ["shard"]);
    assert_eq!(found("/// as crate::control says\nuse crate_of::wire;"), Vec::<String>::new());
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// First segment of each path that begins with `crate::`, groups opened.
fn used_layers(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    code.split("crate::").skip(1).flat_map(first_segments).collect()
}

fn first_segments(after: &str) -> Vec<String> {
    let Some(group) = after.strip_prefix('{') else { return vec![identifier(after)] };
    let (mut depth, mut item, mut items) = (0, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            letter if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    items.push(item);
    items.iter().map(|item| identifier(item.trim_start())).filter(|it| !it.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}
