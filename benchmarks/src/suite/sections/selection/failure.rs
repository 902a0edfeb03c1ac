//! The failure study: the best of five models answers at random for a while, and recovers.

use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use super::client::{Client, Question, mean};
use crate::cluster::{Cluster, app};
use crate::section::Section;

const ACCURACIES: [f64; 5] = [0.75, 0.64, 0.82, 0.54, 0.90];
const BEST: usize = 4;
const SEGMENTS: u64 = 4;
/// The segment in which the best model answers at random.
const BROKEN: u64 = 1;
const POLICIES: [&str; 7] =
    ["exp4", "thompson", "epsilon_greedy", "exp3", "exp3_ix", "ucb1", "majority_vote"];
const CLIENTS: usize = 8;
const OBJECTIVE_MS: u64 = 1000;
/// How many points of the plot a segment has.
const POINTS: usize = 10;

/// The errors of each query of a segment, by segment.
struct Errors {
    name: String,
    segments: Vec<Vec<f64>>,
}

impl Errors {
    fn of_segment(&self, segment: usize) -> f64 {
        self.segments.get(segment).map_or(f64::NAN, |errors| mean(errors))
    }

    fn overall(&self) -> f64 {
        mean(&self.segments.concat())
    }

    fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.clone()];
        row.extend((0..self.segments.len()).map(|segment| format!("{:.4}", self.of_segment(segment))));
        row.push(format!("{:.4}", self.overall()));
        row
    }

    fn curve(&self) -> Curve {
        let all = self.segments.concat();
        let width = self.segments[0].len() / POINTS;
        let points = all.chunks(width).enumerate();
        let points = points.map(|(index, errors)| (((index + 1) * width) as f64, mean(errors)));
        Curve { name: self.name.replace('`', ""), points: points.collect() }
    }
}

/// The queries of a segment.
fn questions(segment: u64, length: u64) -> impl Iterator<Item = Question> {
    (segment * length..(segment + 1) * length)
        .map(move |id| Question { id, case: u32::from(segment == BROKEN) })
}

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let length = if section.options.quick { 500 } else { 5_000 };
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let names: Vec<String> = (0..ACCURACIES.len()).map(|model| format!("model-{model}")).collect();
    for (model, name) in names.iter().enumerate() {
        let (accuracy, seed) = (ACCURACIES[model].to_string(), (model + 1).to_string());
        let mut command = vec!["labeller", "--accuracy", &accuracy, "--seed", &seed];
        if model == BEST {
            command.extend(["--in-case", "1=0.1"]);
        }
        cluster.deploy(name, &command, json!({"cache": false}))?;
        let alone = app(&format!("only-{name}"), name, OBJECTIVE_MS, json!({}));
        cluster.must_silently("add_app", &alone)?;
    }
    for policy in POLICIES {
        cluster.add_selecting_app(policy, &names, OBJECTIVE_MS, policy)?;
    }
    cluster.note("an application of each model alone; queries and feedback by clients of the suite");
    section.commands(cluster.transcript());
    let client = Client::new(cluster.query())?;
    for name in &names {
        client.until_served(&format!("only-{name}"), 1)?;
    }

    let mut singles = Vec::new();
    for (name, accuracy) in names.iter().zip(ACCURACIES) {
        let app = format!("only-{name}");
        let mut segments = Vec::new();
        for segment in 0..SEGMENTS {
            let errors = client.each(CLIENTS, questions(segment, length), |asker, question| {
                let app = app.clone();
                async move { Ok(asker.predict(&app, question, None).await?.error(question)) }
            });
            segments.push(errors?);
        }
        singles.push(Errors { name: format!("the model of {accuracy:.2} alone"), segments });
    }
    let mut policies = Vec::new();
    for policy in POLICIES {
        let learns = policy != "majority_vote";
        let mut segments = Vec::new();
        for segment in 0..SEGMENTS {
            let errors = client.each(CLIENTS, questions(segment, length), |asker, question| async move {
                match learns {
                    true => asker.ask_and_tell(policy, question, None).await,
                    false => Ok(asker.predict(policy, question, None).await?.error(question)),
                }
            });
            segments.push(errors?);
        }
        let errors = Errors { name: format!("`{policy}`"), segments };
        eprintln!("{policy}: {:.4}", errors.overall());
        policies.push(errors);
    }

    let least = |of: &dyn Fn(&Errors) -> f64| singles.iter().map(of).fold(f64::INFINITY, f64::min);
    let hindsight = least(&Errors::overall);
    section.say(&format!(
        "### A model that fails and recovers\n\nFive models are right in {ACCURACIES:?} of all queries, independently of each other, and otherwise give \
         any other of 10 labels. In the second of four segments of {length} queries the best one answers at random. Each answer is followed by feedback \
         with the label, by {CLIENTS} clients in a closed loop. Mean errors, defaults included:"
    ));
    let mut rows: Vec<Vec<String>> = policies.iter().map(Errors::row).collect();
    rows.extend(singles.iter().map(Errors::row));
    let mut best = vec!["the best model of each segment".to_owned()];
    let of_best: Vec<f64> =
        (0..SEGMENTS as usize).map(|segment| least(&|single| single.of_segment(segment))).collect();
    best.extend(of_best.iter().map(|error| format!("{error:.4}")));
    best.push(format!("{:.4}", mean(&of_best)));
    rows.push(best);
    section.table(&["", "first", "broken", "recovered", "last", "all"], &rows);
    let exp4 = &policies[0];
    section.say(&format!(
        "`exp4` errs {:.4} in all, the best single model in hindsight {hindsight:.4}: {}. After the recovery it errs {:+.4} against the best model, \
         in the last segment {:+.4} (at most +0.02): {}.",
        exp4.overall(),
        reached(exp4.overall() < hindsight),
        exp4.of_segment(2) - of_best[2],
        exp4.of_segment(3) - of_best[3],
        reached((2..4).all(|segment| exp4.of_segment(segment) < of_best[segment] + 0.02)),
    ));
    section.plot(
        "selection-failure",
        &Plot {
            title: "The best of five models fails for a while".to_owned(),
            x: "queries".to_owned(),
            y: format!("mean error of {} queries", length as usize / POINTS),
            log_x: false,
            log_y: false,
            curves: policies.iter().map(Errors::curve).collect(),
        },
    )
}

/// Whether a target was.
pub fn reached(is: bool) -> &'static str {
    if is { "reached" } else { "**not reached**" }
}
