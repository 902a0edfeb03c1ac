//! A report as a table.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::report::Report;
use crate::search::Search;

/// What a run came to, in some lines.
pub fn of_report(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let mode = match report.offered_per_second {
        Some(rate) => format!("open loop, {} arrivals, {rate:.0}/s offered", report.mode),
        None => "closed loop".to_owned(),
    };
    let duration = report.duration_seconds;
    table.add_row(["load".to_owned(), format!("{mode}, {} connections, {duration} s", report.connections)]);
    table.add_row(["throughput".to_owned(), format!("{:.0} answers/s", report.throughput_per_second)]);
    table.add_row([
        "goodput".to_owned(),
        format!(
            "{:.0}/s, {:.2} % of the requests: real and within {} ms",
            report.goodput_per_second,
            report.good_share * 100.0,
            report.objective_ms
        ),
    ]);
    if let Some(latency) = report.latency_ms {
        table.add_row([
            "latency (ms)".to_owned(),
            format!(
                "p50 {:.3}   p90 {:.3}   p99 {:.3}   p99.9 {:.3}   max {:.3}   mean {:.3}",
                latency.p50, latency.p90, latency.p99, latency.p999, latency.max, latency.mean
            ),
        ]);
    }
    let requests = &report.requests;
    table.add_row(["requests".to_owned(), format!("{}, {} answered", requests.total, requests.answered)]);
    for (what, counts) in
        [("defaults", &requests.defaults), ("statuses", &requests.statuses), ("failures", &requests.failures)]
    {
        if !counts.is_empty() {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            table.add_row([what.to_owned(), counts.join(", ")]);
        }
    }
    let generator = &report.generator;
    let mut fared = format!("busy for {:.0} % of the time", generator.cpu_share * 100.0);
    if report.offered_per_second.is_some() {
        fared.push_str(&format!(
            ", sent with a lag of {:.3} ms (p99), {} requests waited for a connection",
            generator.lag_p99_ms, generator.waited_for_connection
        ));
    }
    table.add_row(["generator".to_owned(), fared]);
    if let Some(problem) = &generator.problem {
        table.add_row(["caution".to_owned(), problem.clone()]);
    }
    table.to_string()
}

/// The rounds of a search, and what it found.
pub fn of_search(search: &Search) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(["offered/s", "answered/s", "good", "p50 ms", "p99 ms", "met"]);
    for round in &search.rounds {
        let report = &round.report;
        let (p50, p99) = report.latency_ms.map_or((f64::NAN, f64::NAN), |latency| (latency.p50, latency.p99));
        table.add_row([
            format!("{:.0}", round.rate),
            format!("{:.0}", report.throughput_per_second),
            format!("{:.2} %", report.good_share * 100.0),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            if round.met { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let found = match search.highest_rate {
        Some(rate) => {
            format!("highest rate with {:.4} % within the objective: {rate:.0}/s", search.share * 100.0)
        }
        None => format!("no rate that was tried had {:.4} % within the objective", search.share * 100.0),
    };
    format!("{table}\n{found}")
}
