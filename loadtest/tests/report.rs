//! The report measures what it says, and writes a page and figures that can be read again. Small: what it finds is not the point here.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::folder::Folder;
use common::proxy::binary;
use serde_json::Value;

fn loadtest(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest")).args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_small_report_has_its_figures_on_a_page_and_compares_with_itself() {
    let folder = Folder::new();
    let (html, json) = (format!("{}/report.html", folder.text()), format!("{}/report.json", folder.text()));
    let proxy = binary();
    let output = loadtest(&[
        "report",
        "--only=direct,floor-epoll,bare-epoll,cached,alone-zlib,flood",
        "--rate=10000",
        "--repeats=2",
        "--seconds=1",
        "--shards=4",
        "--cores=1",
        "--proxy",
        proxy.to_str().unwrap(),
        "--html",
        &html,
        "--json",
        &json,
    ]);
    let said = text(&output);
    assert!(output.status.success() && said.contains("every promise was kept"), "{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(report["failures"], serde_json::json!([]), "{said}");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5 + 2, "{said}");
    for case in cases {
        assert_eq!(case["samples"].as_array().unwrap().len(), 2, "{case}");
        let setup = case["setup"].as_str().unwrap();
        // Nobody between, or weighed alone.
        let has_no_cpu = setup.starts_with("direct") || setup == "alone-zlib";
        for sample in case["samples"].as_array().unwrap() {
            assert_eq!(sample["cpu_percent"].is_null(), has_no_cpu, "{case}");
            assert_eq!(sample["delivered"] == 0, setup == "alone-zlib", "{case}");
        }
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("report --repeats 2 --seconds 1"));
    std::fs::remove_file(&html).unwrap();
    let again = loadtest(&["report", "--from", &json, "--html", &html]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(std::fs::read_to_string(&html).unwrap() == page);
    let compared = loadtest(&["compare", &json, &json]);
    let said = text(&compared);
    assert!(compared.status.success() && said.contains("\n0 better, 0 worse, "), "{said}");
}

#[test]
fn the_floor_is_a_table_of_everybody_at_the_same_rate() {
    let proxy = binary();
    let words = ["floor", "--rate=500", "--repeats=1", "--seconds=1", "--shards=2", "--cores=1", "--proxy"];
    let output = loadtest(&[&words[..], &[proxy.to_str().unwrap()]].concat());
    let said = text(&output);
    assert!(said.contains("\nno proxy at all ") && said.contains("\nbare relay, epoll "), "{said}");
    assert!(said.contains("\nproxy, epoll, no cache "), "{said}");
}

#[test]
fn what_is_no_report_is_refused_by_its_name() {
    let folder = Folder::new();
    let path = format!("{}/other.json", folder.text());
    std::fs::write(Path::new(&path), "{}").unwrap();
    let output = loadtest(&["compare", &path, &path]);
    assert!(!output.status.success() && text(&output).contains("other.json"), "{}", text(&output));
}
