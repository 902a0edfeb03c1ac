//! Ensembles of models that stall: answered in time, and as right as if everybody had been waited for.

use clipper_benchmarks::report::Report;
use serde_json::json;

use super::client::{Client, Question, mean};
use super::failure::reached;
use crate::cell::{ms, percent};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::section::Section;

const ACCURACIES: [f64; 8] = [0.60, 0.64, 0.68, 0.72, 0.76, 0.80, 0.84, 0.88];
const OBJECTIVE_MS: u64 = 100;
/// Longer than any model stalls.
const PATIENT_MS: u64 = 10_000;
const RATE: u64 = 100;
/// By how much the 99th percentile may be above the objective.
const LATE_MS: f64 = 3.0;
const POLICIES: [&str; 2] = ["exp4", "majority_vote"];

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let names: Vec<String> = (0..ACCURACIES.len()).map(|model| format!("model-{model}")).collect();
    for (model, name) in names.iter().enumerate() {
        let (accuracy, seed) = (ACCURACIES[model].to_string(), (model + 1).to_string());
        let command = ["labeller", "--accuracy", &accuracy, "--seed", &seed, "--stall-share", "0.1"];
        cluster.deploy(name, &command, json!({"cache": false}))?;
    }
    for policy in POLICIES {
        cluster.add_selecting_app(&format!("{policy}-in-time"), &names, OBJECTIVE_MS, policy)?;
        cluster.add_selecting_app(&format!("{policy}-blocking"), &names, PATIENT_MS, policy)?;
    }
    section.commands(cluster.transcript());
    let client = Client::new(cluster.query())?;
    let (seconds, lessons) = if section.options.quick { (4, 100) } else { (8, 500) };
    for policy in POLICIES {
        for kind in ["in-time", "blocking"] {
            client.until_served(&format!("{policy}-{kind}"), 1)?;
        }
    }
    // Both ensembles have been taught alike, by all of their models.
    client.each(8, 0..lessons, |asker, id| async move {
        let question = Question { id: 50_000_000 + id, case: 0 };
        let answer = asker.predict("exp4-blocking", question, None).await?;
        asker.tell("exp4-blocking", answer.query_id, question.label()).await?;
        let answer = asker.predict("exp4-in-time", question, None).await?;
        asker.tell("exp4-in-time", answer.query_id, question.label()).await
    })?;

    let query = cluster.query();
    let inputs = tempfile::NamedTempFile::new()?;
    let lines: Vec<String> =
        (0..10_000).map(|id| Question { id: 60_000_000 + id, case: 0 }.input().to_string()).collect();
    std::fs::write(inputs.path(), lines.join("\n"))?;
    let mut rows = Vec::new();
    let mut verdicts = Vec::new();
    for policy in POLICIES {
        let mut accuracies = Vec::new();
        for (kind, objective) in [("in-time", OBJECTIVE_MS), ("blocking", PATIENT_MS)] {
            let app = format!("{policy}-{kind}");
            let flags = format!(
                "--inputs-file {} --rate {RATE} --objective {objective}ms --connections 256 --warm-up 1s --duration {seconds}s",
                inputs.path().display()
            );
            let measurement = Measurement::new(&app, &query, &format!("{app}/predict"), &flags);
            let documented = measurement.command.replace(&inputs.path().display().to_string(), "INPUTS");
            section.commands(&[documented]);
            let report: Report = measurement.run()?;
            let asked = (0..RATE * seconds).map(|id| Question { id: 70_000_000 + id, case: 0 });
            let errors = client.paced(RATE as f64, asked, |asker, question| {
                let app = app.clone();
                async move { Ok(asker.predict(&app, question, None).await?.error(question)) }
            })?;
            let accuracy = 1.0 - mean(&errors);
            let latency =
                report.latency_ms.map_or((f64::NAN, f64::NAN), |latency| (latency.p50, latency.p99));
            eprintln!("{app}: p99 {:.1} ms, {accuracy:.4} right", latency.1);
            let late: u64 = report.requests.defaults.values().sum();
            rows.push(vec![
                format!("`{policy}`, {}", if kind == "blocking" { "blocking" } else { "in time" }),
                ms(latency.0),
                format!("{:.1} ms", latency.1),
                late.to_string(),
                percent(accuracy),
            ]);
            accuracies.push((accuracy, latency.1));
        }
        let [(in_time, p99), (blocking, _)] = accuracies[..] else { continue };
        verdicts.push(format!(
            "`{policy}`: p99 within {OBJECTIVE_MS} + {LATE_MS} ms {}; accuracy {:+.2} points, within 2: {}.",
            reached(p99 <= OBJECTIVE_MS as f64 + LATE_MS),
            (in_time - blocking) * 100.0,
            reached(blocking - in_time <= 0.02),
        ));
    }
    section.say(&format!(
        "### Models that stall\n\nEight models, right in {ACCURACIES:?} of all queries, stall for 500 ms in 10 % of the time, each at random moments of its own, \
         so that all eight answer at once in 43 % of the time. {RATE} queries/s; in time with an objective of {OBJECTIVE_MS} ms, blocking with one of \
         {PATIENT_MS} ms, which waits until the missing votes could change nothing. `INPUTS` are lines `[id, label, 0]`; the accuracies are of {} other queries each, at the same rate.",
        RATE * seconds
    ));
    section.table(&["", "p50", "p99", "defaults", "right"], &rows);
    section.say(&verdicts.join(" "));
    Ok(())
}
