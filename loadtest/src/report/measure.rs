//! The plan carried out: rounds over all setups, in turn, so that what the machine does meanwhile hits all of them alike.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::figures::{Case, Report, Sample, Trace};
use super::options::Options;
use super::plan::{Between, HEADLINE, Setup};
use crate::args::Args;
use crate::run::fake::Fake;
use crate::run::proc::rss_bytes;
use crate::run::proxy;
use crate::run::{Run, in_temp_dir};
use crate::state::options::Options as StateOptions;
use crate::state::pages;
use crate::state::stage::{machine, mib, start_proxy};

/// Until a proxy is at rest: its allocator gives back memory with a delay of some ten seconds.
const SETTLE: Duration = Duration::from_secs(12);
/// Lets what the last setup left behind come to its end.
const BETWEEN: Duration = Duration::from_millis(300);
/// Setups whose memory is drawn over time.
const TRACED: [&str; 2] = [HEADLINE, "trouble"];

/// Measures `setups`, and prints a line for each step.
///
/// Errs when nothing could be measured; what could not be measured beside other things is in `failures`.
pub async fn measure(options: Options, setups: Vec<Setup>, command: String) -> io::Result<Report> {
    let mut options = options;
    if options.proxy.is_none() {
        options.proxy = Some(proxy::build().await?);
    }
    in_temp_dir(async |dir| {
        let mut report = Report {
            machine: machine(),
            command,
            is_quick: options.is_quick,
            repeats: options.repeats,
            seconds: options.seconds,
            shards: options.shards,
            rates: options.rates.clone(),
            ..Report::default()
        };
        let began = Instant::now();
        for round in 1..=options.repeats {
            for setup in &setups {
                let dir = dir.join(format!("{}-{round}", setup.name));
                std::fs::create_dir_all(&dir)?;
                let measured = match setup.between {
                    Between::ProxyAlone => weigh(&options, setup, &dir, &mut report).await,
                    _ => load(&options, setup, &dir, &mut report).await,
                };
                if let Err(error) = measured {
                    let failure = format!("{}, round {round}: {error}", setup.name);
                    println!("FAILED {failure}");
                    report.failures.push(failure);
                }
                std::fs::remove_dir_all(&dir)?;
                tokio::time::sleep(BETWEEN).await;
            }
            println!("round {round} of {} done after {:.0} s", options.repeats, began.elapsed().as_secs_f64());
        }
        if report.cases.is_empty() { Err(io::Error::other("nothing could be measured")) } else { Ok(report) }
    })
    .await
}

/// One setup under all of its loads.
async fn load(options: &Options, setup: &Setup, dir: &Path, report: &mut Report) -> io::Result<()> {
    let run_options = setup.run_options(options).map_err(io::Error::other)?;
    let mut run = Run::open(&run_options, dir).await?;
    let mut trace = Trace { setup: setup.name.to_owned(), ..Trace::default() };
    for step in &setup.steps {
        if step.is_at_rest() {
            tokio::time::sleep(SETTLE).await;
        }
        let outcome = run.perform(step.scenario, step.events_per_s, Duration::from_secs(step.seconds)).await?;
        let sample = Sample::of(&outcome, step.is_at_rest());
        println!("{}", line(setup.name, &step.name, &sample));
        let start_s = trace.points.last().map_or(0.0, |it| it.0);
        trace.marks.push((start_s, step.name.clone()));
        trace.points.extend(outcome.memory.iter().map(|(at_s, rss_mib)| (start_s + at_s, *rss_mib)));
        report.case_mut(setup.name, &step.name, step.offered_per_s()).samples.push(sample);
    }
    // Of several rounds the last one's is drawn.
    if TRACED.contains(&setup.name) {
        report.traces.retain(|it| it.setup != setup.name);
        report.traces.push(trace);
    }
    if run.stop().await { Ok(()) } else { Err(io::Error::other("the proxy did not end with status 0 after SIGTERM")) }
}

/// The resident memory of a proxy that has shards, and neither guilds nor clients.
async fn weigh(options: &Options, setup: &Setup, dir: &Path, report: &mut Report) -> io::Result<()> {
    let state = StateOptions {
        shards: setup.shards,
        guilds: 0,
        cores: options.cores,
        upstream_compression: Some(setup.upstream.to_owned()),
        ..StateOptions::from_args(&Args::default()).map_err(io::Error::other)?
    };
    let binary = options.proxy.as_deref().ok_or_else(|| io::Error::other("there is no proxy"))?;
    let fake = Fake::start_with(state.discord_words(), dir).await?;
    let proxy = start_proxy(&state, binary, &fake, dir, setup.is_caching).await?;
    tokio::time::sleep(SETTLE).await;
    // The scrape gives every core the occasion to hand memory back.
    pages::metrics(&proxy.url).await?;
    let rss_mib = mib(rss_bytes(proxy.process.pid));
    let sample = Sample { rss_mib: Some(rss_mib), ..Sample::default() };
    println!("{:<16} {:.1} MiB", setup.name, rss_mib);
    let step = setup.steps.first().map_or("", |it| it.name.as_str());
    report.case_mut(setup.name, step, None).samples.push(sample);
    proxy.process.stop().await;
    fake.process.stop().await;
    Ok(())
}

/// A run for who is watching.
fn line(setup: &str, step: &str, sample: &Sample) -> String {
    let number = |it: Option<f64>, digits: usize| it.map_or("–".to_owned(), |it| format!("{it:.digits$}"));
    let broken =
        if sample.broken.is_empty() { String::new() } else { format!("  BROKEN: {}", sample.broken.join(", ")) };
    format!(
        "{setup:<16} {step:<8} {:>8.0} events/s  {:>5} CPU s per million  p50 {} p99 {} p99.9 {} µs  lost {}{broken}",
        sample.events_per_s,
        number(sample.cpu_s_per_million, 1),
        number(sample.p50_us, 0),
        number(sample.p99_us, 0),
        number(sample.p999_us, 0),
        sample.lost,
    )
}

/// Whether every promise was kept in every run.
pub fn is_kept(cases: &[Case]) -> bool {
    cases.iter().flat_map(|it| &it.samples).all(|it| it.broken.is_empty())
}
