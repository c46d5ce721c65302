//! What the page says: the figures that count first, then each claim with its plot and its numbers, and what was missed.

use super::figures::{Case, Figure, Report, Trace};
use super::html::{Card, beside, cards, document, figure, paragraph, section, split};
use super::plan::{HEADLINE, SINGLE_RATE, TROUBLES, USUAL_RATE, title, without_proxy};
use super::plot::{Axis, Lines, Point, Scale, Series, bars, tick};
use super::table::{Table, escape, maybe, number, spread};
use super::target::{FLOOR_MULTIPLE, Target, cpu_at, targets};
use super::{floor_table, offered};

/// Quantiles of latency, and the colour of each.
const QUANTILES: [(Figure, &str, &str); 3] =
    [(Figure::P50, "p50", "s3"), (Figure::P99, "p99", "s1"), (Figure::P999, "p99.9", "s2")];
/// The setups whose encodings are compared, and the colour of each.
const ENCODINGS: [(&str, &str); 6] = [
    ("upstream-none", "s3"),
    (HEADLINE, "s1"),
    ("upstream-zstd", "s1"),
    ("tls", "s4"),
    ("clients-zlib", "s2"),
    ("clients-zstd", "s2"),
];

/// The whole page.
pub fn page(report: &Report) -> String {
    let body = [
        head(report),
        cards(&headline(report)),
        target_section(report),
        cpu_section(report),
        latency_section(report),
        floor_section(report),
        encoding_section(report),
        trouble_section(report),
        limits_section(report),
        method_section(report),
    ];
    document("shardgate, measured", &body.concat())
}

fn head(report: &Report) -> String {
    format!(
        "<header>\n<h1>shardgate, measured</h1>\n<p class=\"lead\">A Discord gateway proxy under the events of {} shards: what it costs, \
         what it adds, what it loses. {}.</p>\n</header>\n",
        report.shards,
        match report.repeats {
            1 => "One run of everything, so nothing here shows its noise".to_owned(),
            runs => format!("Medians of {runs} runs, taken in turn; ranges in brackets"),
        }
    )
}

/// The numbers that one would quote.
fn headline(report: &Report) -> Vec<Card> {
    let usual = USUAL_RATE.to_string();
    let at_usual = |setup: &str, figure| report.median(setup, &usual, figure);
    let rate = number(USUAL_RATE.into());
    let faults = |it: &Case| it.sum(|it| it.lost + it.duplicated + it.out_of_order);
    let delivered: u64 = report.cases.iter().map(|it| it.sum(|it| it.delivered)).sum();
    let faulty: u64 = report.cases.iter().map(faults).sum();
    let multiple = ["bare-ring", "bare-epoll"].into_iter().filter_map(|it| report.multiple(it, USUAL_RATE));
    let added = |figure| report.added_us(HEADLINE, USUAL_RATE, figure);
    let cards = [
        (
            at_usual(HEADLINE, Figure::CpuPerMillion),
            "CPU s",
            format!("per million events, at {rate} events/s, all state cached"),
        ),
        (
            multiple.min_by(f64::total_cmp),
            "×",
            format!("the CPU of a bare byte relay, at {rate} events/s, without cache and compression"),
        ),
        (added(Figure::P50), "µs", format!("added to the median latency, at {rate} events/s")),
        (added(Figure::P99), "µs", format!("added to the 99th percentile, at {rate} events/s")),
        (
            (delivered > 0).then_some(faulty as f64),
            "events",
            format!("lost, doubled or out of order, of {} delivered", number(delivered as f64)),
        ),
        (
            report.median("flood", "flood", Figure::EventsPerS),
            "events/s",
            "at most, with Discord and all clients on the same machine".to_owned(),
        ),
        (
            report.median("alone-zlib", "alone", Figure::Rss),
            "MiB",
            format!("resident with {} shards, no guilds and no clients", report.shards),
        ),
    ];
    let known = cards.into_iter().filter_map(|(value, unit, what)| Some(Card { number: number(value?), unit, what }));
    known.collect()
}

fn target_section(report: &Report) -> String {
    let targets = targets(report);
    let mut rows = String::new();
    for target in &targets {
        let class = match target.is_met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        rows += &format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td class=\"{class}\">{}</td></tr>\n",
            escape(&target.what),
            escape(&target.wanted),
            maybe(target.found),
            target.verdict(),
        );
    }
    let table = format!(
        "<div class=\"wide\"><table class=\"targets\"><thead><tr><th>target</th><th>wanted</th><th>found</th><th></th></tr></thead>\
         <tbody>\n{rows}</tbody></table></div>\n"
    );
    let met = targets.iter().filter(|it| it.is_met == Some(true)).count();
    let judged = targets.iter().filter(|it| it.is_met.is_some()).count();
    let text = format!("{met} of {judged} targets are met.{}", missed(&targets));
    section("targets", "Targets, met and missed", &[paragraph(&text), table])
}

/// How many are missed, in words.
fn missed(targets: &[Target]) -> String {
    let missed = targets.iter().filter(|it| it.is_met == Some(false)).count();
    match missed {
        0 => String::new(),
        1 => " One is missed; the table says by how much.".to_owned(),
        missed => format!(" {missed} are missed; the table says by how much."),
    }
}

fn cpu_section(report: &Report) -> String {
    let line = |setup: &str, class, is_dashed| {
        over_rates(report, setup, title(setup).to_owned(), class, is_dashed, Figure::CpuPerMillion)
    };
    let floor = report.rates.first().and_then(|it| report.floor(*it)).map_or("floor-epoll", |it| it.1);
    let mut series = vec![
        line("clients-zlib", "s2", false),
        line(HEADLINE, "s1", false),
        line("bare-ring", "s3", false),
        line(floor, "floor", true),
    ];
    let wanted = report.rates.iter().filter_map(|rate| {
        let y = cpu_at(*rate)?;
        Some(Point { x: (*rate).into(), y: super::figures::Spread { median: y, min: y, max: y }, is_full: true })
    });
    let wanted = wanted.collect();
    series.push(Series {
        name: "target, state cached".to_owned(),
        class: "s1",
        is_dashed: true,
        has_dots: false,
        points: wanted,
    });
    let drawing = lines_over_rates(report, "CPU per event over rate", "CPU s per million events", series, false);
    let mut table = Table::new(&[
        "between Discord and clients",
        "events/s",
        "CPU s per million",
        "sleeps per event",
        "% of a core",
        "fake Discord, %",
        "clients, %",
    ]);
    for setup in ["clients-zlib", "clients-zstd", HEADLINE, "bare-ring", "bare-epoll", "floor-epoll", "floor-ring"] {
        for case in steady(report, setup) {
            let load = |of: fn(&super::figures::Sample) -> f64| {
                maybe(super::figures::Spread::of(case.samples.iter().map(of)).map(|it| it.median))
            };
            table.row(vec![
                title(setup).to_owned(),
                offered(case),
                spread(case.spread(Figure::CpuPerMillion)),
                spread(case.spread(Figure::Switches)),
                maybe(case.spread(Figure::CpuPercent).map(|it| it.median)),
                load(|it| it.discord_cpu_percent),
                load(|it| it.clients_cpu_percent),
            ]);
        }
    }
    let text = "One event in, one event out, 0.8 kB on average. At low rates what is paid for is waking up; the more events come at once, \
                the cheaper each one is. CPU time is that of the whole process, user and system.";
    section("cpu", "CPU", &[split(&paragraph(text), &figure("CPU per million events", &drawing, &table.html()))])
}

fn latency_section(report: &Report) -> String {
    let mut series = Vec::new();
    for (figure, name, class) in QUANTILES.into_iter().rev() {
        series.push(over_rates(report, HEADLINE, format!("{name}, with the proxy"), class, false, figure));
        series.push(over_rates(report, without_proxy(HEADLINE), format!("{name}, without"), class, true, figure));
    }
    let drawing = lines_over_rates(report, "Latency over rate", "from sending to reading", series, true);
    let mut table = Table::new(&[
        "between Discord and clients",
        "events/s",
        "p50, µs",
        "p99, µs",
        "p99.9, µs",
        "added p50",
        "added p99",
        "added p99.9",
    ]);
    for setup in ["direct", "direct-zlib", HEADLINE, "bare-ring", "bare-epoll", "clients-zlib", "clients-zstd", "tls"] {
        for case in steady(report, setup) {
            let rate = case.step.parse().unwrap_or(0);
            let added = |figure| match setup {
                "direct" | "direct-zlib" => maybe(None),
                _ => maybe(report.added_us(setup, rate, figure)),
            };
            let at = |figure| spread(case.spread(figure));
            table.row(vec![
                title(setup).to_owned(),
                offered(case),
                at(Figure::P50),
                at(Figure::P99),
                at(Figure::P999),
                added(Figure::P50),
                added(Figure::P99),
                added(Figure::P999),
            ]);
        }
    }
    let text = "From the moment the fake Discord writes an event to the moment a client reads it, so the load test's own share is in it: the dashed \
                lines are clients without a proxy that decompress for themselves what it would have decompressed. What is called added is the difference of the two \
                percentiles, the proxy without compression against clients without compression. Where the load \
                test and the proxy want more than the machine has, everything waits, and latency says no more about the proxy alone.";
    section(
        "latency",
        "Latency",
        &[split(&paragraph(text), &figure("Percentiles of latency", &drawing, &table.html()))],
    )
}

fn floor_section(report: &Report) -> String {
    let multiples = |setup: &str, class, is_dashed| {
        let point = |rate: &u32| {
            let y = report.multiple(setup, *rate)?;
            let is_full = report.case(setup, &rate.to_string()).is_some_and(Case::is_full);
            Some(Point { x: (*rate).into(), y: super::figures::Spread { median: y, min: y, max: y }, is_full })
        };
        let points = report.rates.iter().filter_map(point).collect();
        Series { name: title(setup).to_owned(), class, is_dashed, has_dots: true, points }
    };
    let series = vec![
        multiples("bare-ring", "s1", false),
        multiples("bare-epoll", "s3", false),
        multiples("floor-glommio", "floor", true),
    ];
    let values = series.iter().flat_map(|it| &it.points).map(|it| it.y.max).chain([FLOOR_MULTIPLE]);
    let scale = Scale::linear(values);
    let lines = Lines {
        what: "Multiples of the floor over rate",
        x: rate_axis(report),
        y: Axis { label: "times the floor", scale, ticks: None, write: tick },
        series,
        marks: Vec::new(),
        limit: Some((FLOOR_MULTIPLE, format!("target {FLOOR_MULTIPLE}"))),
    };
    let drawing = if report.floor(USUAL_RATE).is_some() || !report.rates.contains(&USUAL_RATE) {
        lines.html()
    } else {
        String::new()
    };
    let text = "How cheap can it be? A bare relay reads from one socket and writes to another and looks at nothing. It is put exactly where the proxy \
                is: same events, same bursts, same CPUs. The floor is the cheaper of two relays, over epoll and over an own io_uring. The proxy, which \
                finds every event's number, logs it, and writes each client's own number into it, is compared without cache and without compression. \
                glommio's TCP is beside it because the proxy uses glommio for storage and not for sockets.";
    let table = floor_table(report).html();
    section(
        "floor",
        "The floor",
        &[split(&paragraph(text), &figure("CPU as a multiple of the floor", &drawing, &table))],
    )
}

fn encoding_section(report: &Report) -> String {
    let usual = USUAL_RATE.to_string();
    let bar = |(setup, class): &(&'static str, &'static str)| {
        let name = match *setup {
            HEADLINE => "Discord with zlib-stream, plain clients",
            other => title(other),
        };
        Some((name.to_owned(), report.spread(setup, &usual, Figure::CpuPerMillion)?, *class))
    };
    let drawing = bars("CPU per encoding", &ENCODINGS.iter().filter_map(bar).collect::<Vec<_>>());
    let mut table = Table::new(&["encoding", "events/s", "CPU s per million", "p50, µs", "p99, µs", "RSS, MiB"]);
    for (setup, _) in ENCODINGS {
        for case in steady(report, setup) {
            let at = |figure| spread(case.spread(figure));
            table.row(vec![
                title(setup).to_owned(),
                offered(case),
                at(Figure::CpuPerMillion),
                at(Figure::P50),
                at(Figure::P99),
                at(Figure::Rss),
            ]);
        }
    }
    let heading = format!("CPU s per million events, {} events/s", number(USUAL_RATE.into()));
    let text = "All state cached. Where nothing else is said Discord sends zlib-stream without TLS, and clients take plain text. Compression to clients is \
                per connection; TLS is towards Discord, as with a real bot.";
    section("encodings", "Encodings and TLS", &[split(&paragraph(text), &figure(&heading, &drawing, &table.html()))])
}

fn trouble_section(report: &Report) -> String {
    let mut table = Table::new(&[
        "what happens",
        "delivered",
        "by RESUME",
        "lost, doubled, out of order",
        "op 9",
        "IDENTIFYs",
        "outage p50 / max, ms",
        "p50 / p99 / p99.9, µs",
    ]);
    for scenario in TROUBLES {
        let Some(case) = report.case("trouble", scenario.name()) else { continue };
        let median = |of: fn(&super::figures::Sample) -> Option<f64>| {
            maybe(super::figures::Spread::of(case.samples.iter().filter_map(of)).map(|it| it.median))
        };
        table.row(vec![
            in_words(scenario.name()).to_owned(),
            number(case.sum(|it| it.delivered) as f64),
            number(case.sum(|it| it.replayed) as f64),
            number(case.sum(|it| it.lost + it.duplicated + it.out_of_order) as f64),
            number(case.sum(|it| it.invalid_sessions) as f64),
            number(case.sum(|it| it.upstream_identifies) as f64),
            format!("{} / {}", median(|it| it.outage_p50_ms), median(|it| it.outage_max_ms)),
            format!("{} / {} / {}", median(|it| it.p50_us), median(|it| it.p99_us), median(|it| it.p999_us)),
        ]);
    }
    let is_there = TROUBLES.iter().any(|it| report.case("trouble", it.name()).is_some());
    let table = if is_there { table.html() } else { String::new() };
    let memory = |setup: &str, heading: &str| {
        let trace = report.traces.iter().find(|it| it.setup == setup);
        figure(heading, &trace.map(memory_over_time).unwrap_or_default(), "")
    };
    let drawings =
        beside(&[memory("trouble", "Memory while things go wrong"), memory(HEADLINE, "Memory from rate to rate")]);
    let text = format!(
        "At {} events/s, with a data_dir, something goes wrong in the middle. Counts are sums over all runs; IDENTIFYs are those after the start. An \
         outage lasts from a client's last event before it lost its connection to the first one after.",
        number(USUAL_RATE.into())
    );
    let text = if is_there { paragraph(&text) } else { String::new() };
    section("trouble", "When things go wrong", &[text, table, drawings])
}

fn in_words(scenario: &str) -> &'static str {
    match scenario {
        "deploy" => "deploy: all clients gone, back with RESUME",
        "drop" => "drop: Discord cuts every shard, 1,000 events each to replay",
        "stalled" => "stalled: two clients stop reading (latency: the others)",
        "restart" => "restart: SIGTERM to the proxy, started again",
        "kill" => "kill: SIGKILL to the proxy, started again",
        _ => "?",
    }
}

fn memory_over_time(trace: &Trace) -> String {
    let points = trace.points.iter().map(|(x, y)| Point {
        x: *x,
        y: super::figures::Spread { median: *y, min: *y, max: *y },
        is_full: true,
    });
    let word = |name: &String| name.parse::<f64>().map_or(name.clone(), |rate| format!("{}/s", short(rate)));
    let lines = Lines {
        what: "Resident memory over time",
        x: Axis {
            label: "seconds of traffic",
            scale: Scale::linear(trace.points.iter().map(|it| it.0)),
            ticks: None,
            write: tick,
        },
        y: Axis {
            label: "RSS, MiB",
            // Room for the words of the marks.
            scale: Scale::linear(trace.points.iter().map(|it| it.1 * 1.1)),
            ticks: None,
            write: tick,
        },
        series: vec![Series {
            name: "RSS".to_owned(),
            class: "s1",
            is_dashed: false,
            has_dots: false,
            points: points.collect(),
        }],
        marks: trace.marks.iter().map(|(at, name)| (*at, word(name))).collect(),
        limit: None,
    };
    lines.html()
}

fn limits_section(report: &Report) -> String {
    let mut table = Table::new(&["at the edges", "found", ""]);
    let mut row = |what: &str, found: String, more: String| {
        if found != maybe(None) {
            table.row(vec![what.to_owned(), found, more]);
        }
    };
    if let Some(case) = report.case("flood", "flood") {
        let lost = case.sum(|it| it.lost + it.duplicated + it.out_of_order);
        let cost = case.spread(Figure::CpuPerMillion).map(|it| it.median);
        let per_core = cost.map_or(String::new(), |it| {
            format!("; one core alone would carry {} by that (calculated)", number(1e6 / it))
        });
        row(
            "flood: as many events as clients take",
            format!("{} events/s", spread(case.spread(Figure::EventsPerS))),
            format!(
                "{} lost, doubled or out of order, {} op 9; {} CPU s per million{per_core}",
                lost,
                case.sum(|it| it.invalid_sessions),
                maybe(cost)
            ),
        );
    }
    let single = |figure| report.spread("single", &SINGLE_RATE.to_string(), figure);
    row(
        &format!("one shard at {} events/s", number(SINGLE_RATE.into())),
        spread(single(Figure::P50)),
        format!("µs p50; p99 {}, p99.9 {}", spread(single(Figure::P99)), spread(single(Figure::P999))),
    );
    let idle = report.spread("idle", "idle", Figure::CpuPercent);
    row("no event, all shards and clients there", spread(idle), "% of a core".to_owned());
    for setup in ["alone-zlib", "alone-none", "alone-zstd"] {
        row(title(setup), spread(report.spread(setup, "alone", Figure::Rss)), "MiB resident".to_owned());
    }
    let text = "A flood has no rate: the fake Discord sends whatever its clients take, with the proxy, the fake Discord and all clients on the same CPUs. What \
                cannot be delivered at once waits, in the proxy's log and then at Discord; the table says what was lost.";
    let is_there =
        ["flood", "single", "idle", "alone-zlib"].iter().any(|it| report.cases.iter().any(|case| case.setup == *it));
    let parts = if is_there { [paragraph(text), table.html()] } else { [String::new(), String::new()] };
    section("edges", "At the edges", &parts)
}

fn method_section(report: &Report) -> String {
    let facts = format!(
        "<dl>\n<dt>machine</dt><dd>{}</dd>\n<dt>runs</dt><dd>{} of everything, {} s of traffic at each rate</dd>\n<dt>shards, clients</dt><dd>{} each</dd>\n</dl>\n\
         <pre><code>{}</code></pre>\n",
        escape(&report.machine),
        report.repeats,
        report.seconds,
        report.shards,
        escape(&report.command),
    );
    let short: Vec<String> =
        report.cases.iter().filter(|it| !it.is_full()).map(|it| format!("{} {}", it.setup, it.step)).collect();
    let short = match short.len() {
        0 => String::new(),
        _ => paragraph(&format!(
            "The load test could not offer what it was asked to in these cases, which have hollow marks above: {}.",
            short.join(", ")
        )),
    };
    let broken = report.cases.iter().flat_map(|case| case.samples.iter().map(move |it| (case, it)));
    let broken = broken.filter(|(_, it)| !it.broken.is_empty());
    let mut broken: Vec<String> =
        broken.map(|(case, it)| format!("{} {}: {}", case.setup, case.step, it.broken.join(", "))).collect();
    broken.extend(report.failures.iter().map(|it| format!("not measured: {it}")));
    let broken = match broken.len() {
        0 => String::new(),
        _ => paragraph(&format!("What went wrong: {}.", broken.join("; "))),
    };
    let text = [
        "A fake Discord, the proxy and the clients are three processes on one machine, over loopback. The fake Discord sends a mix as a large bot sees it, 45 % \
         of it messages, in bursts and alone; each event carries its number and its time. Each client checks every event: nothing missing, nothing double, nothing \
         out of order, its own sequence without a gap.",
        "The machine carries the load test as well, so rates near its end are shared between the two, and a network card, its interrupts and the way to Discord \
         are not in these figures. Percentiles over a few seconds know little of rare events. Where two figures' ranges overlap, nothing is said about which is better.",
    ];
    let text = text.map(paragraph).concat();
    section("method", "How it was measured", &[facts, text, short, broken])
}

/// The cases of a setup at the report's rates.
fn steady<'a>(report: &'a Report, setup: &'a str) -> impl Iterator<Item = &'a Case> {
    report.rates.iter().filter_map(move |it| report.case(setup, &it.to_string()))
}

fn over_rates(
    report: &Report,
    setup: &str,
    name: String,
    class: &'static str,
    is_dashed: bool,
    figure: Figure,
) -> Series {
    let points = steady(report, setup)
        .filter_map(|case| Some(Point { x: case.offered_per_s?, y: case.spread(figure)?, is_full: case.is_full() }));
    Series { name, class, is_dashed, has_dots: true, points: points.collect() }
}

fn lines_over_rates(
    report: &Report,
    what: &'static str,
    label: &'static str,
    series: Vec<Series>,
    is_time: bool,
) -> String {
    let values: Vec<f64> = series.iter().flat_map(|it| &it.points).flat_map(|it| [it.y.min, it.y.max]).collect();
    let y = match is_time {
        true => Axis { label, scale: Scale::decades(values.into_iter()), ticks: None, write: time },
        false => Axis { label, scale: Scale::linear(values.into_iter()), ticks: None, write: tick },
    };
    Lines { what, x: rate_axis(report), y, series, marks: Vec::new(), limit: None }.html()
}

fn rate_axis(report: &Report) -> Axis {
    let rates: Vec<f64> = report.rates.iter().map(|it| (*it).into()).collect();
    let (min, max) = rates.iter().fold((f64::MAX, f64::MIN_POSITIVE), |(min, max), it| (it.min(min), it.max(max)));
    // Room at both ends, so that no mark lies on the frame.
    let scale = Scale::Log { min: min / 1.25, max: max * 1.25 };
    Axis { label: "events/s", scale, ticks: Some(rates), write: short }
}

/// 10k for 10,000.
fn short(value: f64) -> String {
    if value >= 1000.0 {
        format!("{}k", number(value / 1000.0).trim_end_matches(".0").trim_end_matches(".00"))
    } else {
        number(value)
    }
}

/// Microseconds with the unit that suits them.
fn time(us: f64) -> String {
    match us {
        _ if us >= 1e6 => format!("{} s", us / 1e6),
        _ if us >= 1e3 => format!("{} ms", us / 1e3),
        _ => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::report;
    use super::*;

    #[test]
    fn a_page_of_a_whole_report_has_every_section_and_is_balanced() {
        let mut report = report(&[
            ("direct", "10000", &[10.0, 11.0]),
            ("floor-epoll", "10000", &[9.0, 9.5]),
            ("bare-ring", "10000", &[12.0, 12.5]),
            (HEADLINE, "10000", &[14.0, 14.5]),
            ("clients-zlib", "10000", &[19.0, 19.5]),
            ("flood", "flood", &[5.0]),
            ("trouble", "kill", &[5.0]),
        ]);
        let points = vec![(0.0, 20.0), (1.0, 30.0)];
        report.traces.push(Trace { setup: "trouble".into(), points, marks: vec![(0.0, "kill".into())] });
        report.machine = "a <machine>".to_owned();
        let page = page(&report);
        for id in ["targets", "cpu", "latency", "floor", "encodings", "trouble", "edges", "method"] {
            assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
        }
        assert!(page.contains("a &lt;machine&gt;") && !page.contains("NaN") && !page.contains("inf"));
        for tag in ["svg", "table", "figure", "section", "details", "ul", "li", "tr", "td", "g", "text"] {
            let (opened, closed) = (
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count(),
                page.matches(&format!("</{tag}>")).count(),
            );
            assert_eq!(opened, closed, "{tag}");
        }
        let foreign = page.matches("http://").count() + page.matches("https://").count();
        assert_eq!(foreign, 0, "a page that loads something is not self-contained");
    }

    #[test]
    fn a_page_of_nothing_is_a_page() {
        let page = page(&Report { repeats: 1, ..Report::default() });
        assert!(page.contains("How it was measured") && !page.contains("<svg") && !page.contains("NaN"));
    }

    #[test]
    fn rates_and_times_are_short() {
        assert_eq!([2_000.0, 10_000.0, 100_000.0, 500.0].map(short), ["2k", "10k", "100k", "500"]);
        assert_eq!([10.0, 1_000.0, 1e6].map(time), ["10 µs", "1 ms", "1 s"]);
    }
}
