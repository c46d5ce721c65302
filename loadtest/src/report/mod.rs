//! `loadtest report`, `floor` and `compare`: everything measured in turn, as a page, as JSON, as a table, and beside another.
//!
//! `plan` says what is measured, `measure` does it, `figures` is what came out; the others show it.

mod compare;
mod figures;
mod html;
mod measure;
pub mod options;
mod page;
mod plan;
mod plot;
mod table;
mod target;

use std::io;
use std::path::Path;

use self::figures::{Figure, Report};
use self::options::Options;
use self::table::{Table, maybe, number, spread};

/// Measures everything, and writes page and JSON. Answers whether every promise was kept; missed targets of speed are figures and no
/// failure.
///
/// Errs when nothing could be measured or a file cannot be written.
pub async fn report(options: Options) -> io::Result<bool> {
    let report = match &options.from {
        Some(path) => read(path)?,
        None => {
            let setups = plan::whole(&options);
            let command = command("report", &options);
            measure::measure(options.clone(), setups, command).await?
        }
    };
    if options.from.is_none() {
        write_json(&options, &report)?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, page::page(&report))?;
    }
    for target in target::targets(&report) {
        println!("{:<13} {}: {}, wanted {}", target.verdict(), target.what, maybe(target.found), target.wanted);
    }
    let kept = measure::is_kept(&report.cases);
    println!("{}", if kept { "every promise was kept" } else { "NOT every promise was kept" });
    Ok(kept)
}

/// Measures the floor and the proxy stripped down to it, and prints a table.
pub async fn floor(options: Options) -> io::Result<bool> {
    let (setups, command) = (plan::floor(&options), command("floor", &options));
    let report = measure::measure(options.clone(), setups, command).await?;
    write_json(&options, &report)?;
    println!("\n{}\n\n{}", report.machine, floor_table(&report).text());
    Ok(measure::is_kept(&report.cases))
}

/// Two JSONs side by side.
///
/// Errs when one cannot be read.
pub fn compare(before: &Path, after: &Path) -> io::Result<()> {
    print!("{}", compare::text(&read(before)?, &read(after)?));
    Ok(())
}

/// What stands in the middle, at each rate, and how many times the floor it costs.
fn floor_table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "between Discord and clients",
        "events/s",
        "CPU s per million",
        "× floor",
        "p50, µs",
        "p99, µs",
        "p99.9, µs",
        "sleeps per event",
    ]);
    for rate in &report.rates {
        let step = rate.to_string();
        for case in report.cases.iter().filter(|it| it.step == step && is_of_the_floor(&it.setup)) {
            let at = |figure| spread(case.spread(figure));
            table.row(vec![
                plan::title(&case.setup).to_owned(),
                offered(case),
                at(Figure::CpuPerMillion),
                maybe(report.multiple(&case.setup, *rate)),
                at(Figure::P50),
                at(Figure::P99),
                at(Figure::P999),
                at(Figure::Switches),
            ]);
        }
    }
    table
}

fn is_of_the_floor(setup: &str) -> bool {
    ["direct", "floor-", "bare-"].iter().any(|it| setup.starts_with(it))
}

/// The rate, and what came of it where the load test fell short.
fn offered(case: &figures::Case) -> String {
    let offered = maybe(case.offered_per_s);
    match case.spread(Figure::EventsPerS) {
        Some(it) if !case.is_full() => format!("{offered} (came: {})", number(it.median)),
        _ => offered,
    }
}

/// What to type to measure it again.
fn command(name: &str, options: &Options) -> String {
    let mut text = format!("cargo run --release -p loadtest -- {name}");
    if options.is_quick {
        text += " --quick";
    }
    text += &format!(" --repeats {} --seconds {}", options.repeats, options.seconds);
    if options.rates != options::RATES {
        let rates: Vec<_> = options.rates.iter().map(u32::to_string).collect();
        text += &format!(" --rate {}", rates.join(","));
    }
    if options.shards != 225 {
        text += &format!(" --shards {}", options.shards);
    }
    if let Some(cores) = options.cores {
        text += &format!(" --cores {cores}");
    }
    if !options.only.is_empty() {
        text += &format!(" --only {}", options.only.join(","));
    }
    text
}

fn read(path: &Path) -> io::Result<Report> {
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|it| named(&it))?;
    serde_json::from_str(&text).map_err(|it| named(&it))
}

fn write_json(options: &Options, report: &Report) -> io::Result<()> {
    match &options.json {
        Some(path) => std::fs::write(path, serde_json::to_string_pretty(report)? + "\n"),
        None => Ok(()),
    }
}
