//! Feedback in numbers: how much of it is taken, what it does to predictions meanwhile, and when another frontend knows.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clipper_benchmarks::report::Report;
use serde_json::{Value, json};

use super::client::{Client, Question, mean};
use super::failure::reached;
use crate::cell::{ms, rate, ratio};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::section::{Section, median};

const MODELS: usize = 5;
const OBJECTIVE_MS: u64 = 1000;
const CLIENTS: usize = 32;
const APP: &str = "ensemble";
/// Learns of one model from each feedback, so that they can be counted: an ensemble that is certain learns nothing of the models
/// that it did not wait for.
const COUNTED: &str = "bandit";
/// Predictions a second, beside feedback.
const BESIDE: u64 = 1000;
/// Feedbacks a second, beside predictions.
const FEEDBACKS: u64 = 1000;
/// Within which time all frontends are to know.
const KNOWN: Duration = Duration::from_secs(2);

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let names: Vec<String> = (0..MODELS).map(|model| format!("model-{model}")).collect();
    for (model, name) in names.iter().enumerate() {
        // What the first one says in case 0, nobody says in case 1, so that feedback turns the vote.
        let seed = (model + 1).to_string();
        let (accuracy, in_case) = if model == 0 { ("1", "1=0") } else { ("0", "1=1") };
        let command = ["labeller", "--accuracy", accuracy, "--in-case", in_case, "--seed", &seed];
        cluster.deploy(name, &command, json!({"cache": false}))?;
    }
    cluster.add_selecting_app(APP, &names, OBJECTIVE_MS, "exp4")?;
    cluster.add_selecting_app(COUNTED, &names, OBJECTIVE_MS, "exp3")?;
    cluster.add_selecting_app("between", &names[..2], OBJECTIVE_MS, "exp4")?;
    let client = Client::new(cluster.query())?;
    client.until_served(APP, MODELS)?;
    section.say("### Feedback");
    sustained(section, &cluster, &client)?;
    beside(section, &cluster, &client)?;
    across(section, &mut cluster, &client)
}

/// Answers to judge.
fn answered(client: &Client, app: &'static str, ids: Range<u64>) -> anyhow::Result<Vec<(u64, Question)>> {
    client.each(CLIENTS, ids, |asker, id| async move {
        let question = Question { id, case: 0 };
        Ok((asker.predict(app, question, None).await?.query_id, question))
    })
}

fn sustained(section: &mut Section, cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let count = if section.options.quick { 5_000 } else { 50_000 };
    let mut rows = Vec::new();
    for app in [APP, COUNTED] {
        let answers = answered(client, app, 0..count)?;
        let (begun, cpu) = (Instant::now(), cluster.server().cpu_time()?);
        let refused = client.each(CLIENTS, answers, |asker, (query_id, question)| async move {
            asker.tell(app, query_id, question.label()).await
        })?;
        let per_second = count as f64 / begun.elapsed().as_secs_f64();
        let cpu = (cluster.server().cpu_time()? - cpu).as_secs_f64() / count as f64;
        eprintln!("{app}: {per_second:.0} feedbacks/s");
        let policy = if app == APP { "`exp4`" } else { "`exp3`" };
        let refused = refused.iter().sum::<u64>();
        rows.push(vec![
            policy.to_owned(),
            rate(per_second),
            format!("{:.0} us", cpu * 1e6),
            refused.to_string(),
        ]);
    }
    section.say(&format!(
        "{} feedbacks by `query_id` to one frontend, over {MODELS} models, from {CLIENTS} clients in a closed loop in one thread, which is what limits it:",
        rate(count as f64)
    ));
    section.table(&["", "feedbacks/s", "processor time of each", "asked to come again"], &rows);
    nothing_lost(section, cluster, count)
}

/// The latency of predictions without feedback beside them, and with it, in turns.
fn beside(section: &mut Section, cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let inputs = tempfile::NamedTempFile::new()?;
    let lines: Vec<String> =
        (0..10_000).map(|id| Question { id: 30_000_000 + id, case: 0 }.input().to_string()).collect();
    std::fs::write(inputs.path(), lines.join("\n"))?;
    let file = inputs.path().display().to_string();
    let seconds = if section.options.quick { 1 } else { 4 };
    let flags = format!(
        "--inputs-file {file} --rate {BESIDE} --objective {OBJECTIVE_MS}ms --connections 64 --duration {seconds}s --warm-up 500ms"
    );
    let measurement = Measurement::new("beside", &cluster.query(), &format!("{APP}/predict"), &flags);
    section.commands(&[measurement.command.replace(&file, "INPUTS")]);
    let (mut alone, mut with) = (Vec::new(), Vec::new());
    for round in 0..section.rounds() as u64 {
        alone.push(measurement.run()?);
        let first = 10_000_000 * (round + 1);
        let answers = answered(client, APP, first..first + FEEDBACKS * (seconds + 1))?;
        let started = measurement.start()?;
        client.paced(FEEDBACKS as f64, answers, |asker, (query_id, question)| async move {
            asker.tell(APP, query_id, question.label()).await
        })?;
        with.push(started.finish::<Report>()?);
    }
    let of = |reports: &[Report], percentile: fn(&clipper_benchmarks::report::Latency) -> f64| {
        median(reports.iter().filter_map(|report| Some(percentile(report.latency_ms.as_ref()?))).collect())
    };
    let (p50, p99) =
        (|reports: &[Report]| of(reports, |l| l.p50), |reports: &[Report]| of(reports, |l| l.p99));
    section.say(&format!(
        "{} predictions/s of the same application, alone and beside {} feedbacks/s:",
        rate(BESIDE as f64),
        rate(FEEDBACKS as f64)
    ));
    let row = |name: &str, reports: &[Report]| {
        vec![
            name.to_owned(),
            ms(p50(reports)),
            ratio(p50(reports), p50(&alone)),
            ms(p99(reports)),
            ratio(p99(reports), p99(&alone)),
        ]
    };
    section.table(
        &["predictions", "p50", "to alone", "p99", "to alone"],
        &[row("alone", &alone), row("beside feedback", &with)],
    );
    Ok(())
}

/// Waits until management has counted as many feedbacks.
fn nothing_lost(section: &mut Section, cluster: &Cluster, told: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let state = cluster.read("get_state", &json!({"app_name": COUNTED}))?;
        let models = state["state"]["models"].as_array().cloned().unwrap_or_default();
        let counted: f64 = models.iter().filter_map(|model| model["feedbacks"].as_f64()).sum();
        if counted == told as f64 {
            section.say(&format!("None is lost: `/admin/get_state` of the second counts {}.", rate(counted)));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{told} feedbacks were applied, but management counts {counted}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tells one frontend, and asks the other until its answer is another.
fn across(section: &mut Section, cluster: &mut Cluster, client: &Client) -> anyhow::Result<()> {
    let (_frontend, place) = cluster.join_frontend()?;
    section.commands(cluster.transcript());
    let other = Client::new(place)?;
    other.until_served("between", 2)?;
    let rounds = if section.options.quick { 6 } else { 30 };
    let looked_at = Question { id: 40_000_000, case: 0 };
    let look = || {
        let answer = other.run(async |asker| asker.predict("between", looked_at, None).await)?;
        let confidence = answer.confidence.context("an ensemble's answer has a confidence")?;
        Ok::<_, anyhow::Error>((answer.output, confidence))
    };
    let mut times = Vec::new();
    for round in 0..rounds {
        let before: (Value, f64) = look()?;
        let question = Question { id: 41_000_000 + round, case: (round % 2) as u32 };
        client.run(async |asker| asker.teach("between", question).await)?;
        let told = Instant::now();
        while look()? == before {
            ensure!(told.elapsed() < Duration::from_secs(30), "the other frontend never learned of it");
            std::thread::sleep(Duration::from_millis(5));
        }
        times.push(told.elapsed().as_secs_f64() * 1e3);
        // Not in step with the exchanges.
        std::thread::sleep(Duration::from_millis(37 * (round % 11)));
    }
    let most = times.iter().copied().fold(0.0, f64::max);
    section.say(&format!(
        "With a second frontend: {rounds} times one was told something, and the other was asked until its answer was another for it. That took {} in the \
         mean and at most {} (within {KNOWN:?}: {}).",
        ms(mean(&times)),
        ms(most),
        reached(most <= KNOWN.as_secs_f64() * 1e3),
    ));
    Ok(())
}
