//! Users of eight hidden groups, to each of which one model is tuned.

use std::time::Duration;

use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use super::client::{Client, Question, mean};
use super::failure::reached;
use crate::cluster::{Cluster, app};
use crate::section::Section;

const GROUPS: u64 = 8;
const OWN: f64 = 0.9;
/// Of all models, for users of another group.
const OTHER: &str = "0.1";
/// How many queries a user sends at each point, without feedback.
const QUERIES: u64 = 5;
const POINTS: [usize; 5] = [0, 1, 2, 4, 8];
const CLIENTS: usize = 8;
const OBJECTIVE_MS: u64 = 1000;
const APP: &str = "personal";

/// What all users ask at one point. Whose group it is stands in the input, for the models alone.
fn questions(users: u64, point: u64, queries: u64) -> impl Iterator<Item = (u64, Question)> {
    (0..users * queries).map(move |number| {
        let user = number / queries;
        let id = (point + 1) * 10_000_000 + number;
        (user + 1, Question { id, case: (user % GROUPS) as u32 })
    })
}

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let users = if section.options.quick { 80 } else { 600 };
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let names: Vec<String> = (0..GROUPS).map(|group| format!("for-group-{group}")).collect();
    for (group, name) in names.iter().enumerate() {
        let (own, seed) = (format!("{group}={OWN}"), (group + 1).to_string());
        let command = ["labeller", "--accuracy", OTHER, "--in-case", &own, "--seed", &seed];
        cluster.deploy(name, &command, json!({"cache": false}))?;
        let alone = app(&format!("only-{name}"), name, OBJECTIVE_MS, json!({}));
        cluster.must_silently("add_app", &alone)?;
    }
    cluster.add_selecting_app(APP, &names, OBJECTIVE_MS, "exp4")?;
    cluster.note("an application of each model alone; queries and feedback by clients of the suite");
    section.commands(cluster.transcript());
    let client = Client::new(cluster.query())?;
    for name in &names {
        client.until_served(&format!("only-{name}"), 1)?;
    }

    // The shared state is that of an application that has been running.
    let earlier = questions(1000, 100, 1);
    client.each(CLIENTS, earlier, |asker, (_, question)| async move {
        asker.ask_and_tell(APP, question, None).await
    })?;
    let (mut personal, mut shared, mut best) = (Vec::new(), Vec::new(), Vec::new());
    for feedbacks in 0..=POINTS[POINTS.len() - 1] {
        let point = feedbacks as u64;
        if POINTS.contains(&feedbacks) {
            // What was learned is in the answers a moment later.
            std::thread::sleep(Duration::from_millis(200));
            let asked = || questions(users, point, QUERIES);
            let x = feedbacks as f64;
            let own = client.each(CLIENTS, asked(), |asker, (user, question)| async move {
                Ok(asker.predict(APP, question, Some(user)).await?.error(question))
            })?;
            let of_all = client.each(CLIENTS, asked(), |asker, (_, question)| async move {
                Ok(asker.predict(APP, question, None).await?.error(question))
            })?;
            let of_model = client.each(CLIENTS, asked(), |asker, (_, question)| async move {
                let app = format!("only-for-group-{}", question.case);
                Ok(asker.predict(&app, question, None).await?.error(question))
            })?;
            eprintln!("{feedbacks} feedbacks: {:.4}, shared {:.4}", mean(&own), mean(&of_all));
            personal.push((x, mean(&own)));
            shared.push((x, mean(&of_all)));
            best.push((x, mean(&of_model)));
        }
        let told = questions(users, 50 + point, 1);
        client.each(CLIENTS, told, |asker, (user, question)| async move {
            asker.ask_and_tell(APP, question, Some(user)).await
        })?;
    }

    section.say(&format!(
        "### Users of hidden groups\n\n{users} users are of {GROUPS} groups that nobody told the application of. Of its {GROUPS} models one is right in {OWN} \
         of the queries of a group, the others in {OTHER}, as by chance. `exp4`, after 1,000 feedbacks of all groups. Mean errors of {QUERIES} queries of each \
         user, by how many feedbacks the user gave before; shared is the same without `uid`:"
    ));
    let rows: Vec<Vec<String>> = (0..POINTS.len())
        .map(|index| {
            let mut row = vec![POINTS[index].to_string()];
            row.extend(
                [personal[index].1, shared[index].1, best[index].1].map(|error| format!("{error:.4}")),
            );
            row
        })
        .collect();
    section.table(&["feedbacks", "of the user", "shared", "the group's model alone"], &rows);
    // Both of thousands of queries: the model's own accuracy is what it was told.
    let (after_eight, of_model) =
        (personal[4].1, mean(&best.iter().map(|(_, error)| *error).collect::<Vec<_>>()));
    section.say(&format!(
        "After one feedback a user's error is below the shared state's: {}. After eight it is {:.2} of that of the group's model, in the mean of the last column (at most 1.10): {}.",
        reached(personal[1].1 < shared[1].1),
        after_eight / of_model,
        reached(after_eight <= of_model * 1.1),
    ));
    let curve = |name: &str, points: Vec<(f64, f64)>| Curve { name: name.to_owned(), points };
    section.plot(
        "selection-personal",
        &Plot {
            title: "What feedback of a user's own is worth".to_owned(),
            x: "feedbacks that the user gave".to_owned(),
            y: "mean error".to_owned(),
            log_x: false,
            log_y: false,
            curves: vec![
                curve("of the user", personal),
                curve("shared", shared),
                curve("the group's model alone", best),
            ],
        },
    )
}
