//! What a cluster costs that nobody asks anything.

use std::time::Duration;

use serde_json::json;

use crate::cell::percent;
use crate::cluster::{Cluster, app};
use crate::section::Section;

const APPLICATIONS: u32 = 100;
const CONTAINERS: u32 = 20;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    cluster.deploy("model-1", &["noop"], json!({"num_replicas": CONTAINERS}))?;
    cluster.add_app("app-1", "model-1", 100, json!({}))?;
    for number in 2..=APPLICATIONS {
        let model = format!("model-{number}");
        let body = json!({"model_name": model, "model_version": "1", "input_type": "doubles"});
        cluster.must_silently("add_model", &body)?;
        cluster.must_silently("add_app", &app(&format!("app-{number}"), &model, 100, json!({})))?;
    }
    cluster.note(format!("and {} models without containers, each with an application", APPLICATIONS - 1));
    section.commands(cluster.transcript());
    let span = Duration::from_secs(if section.options.quick { 5 } else { 20 });
    let before = cluster.server().cpu_time()?;
    std::thread::sleep(span);
    let used = cluster.server().cpu_time()? - before;
    section.commands(&[format!(
        "cat /proc/$(pgrep -f 'clipper start')/stat; sleep {}; cat /proc/$(pgrep -f 'clipper start')/stat",
        span.as_secs()
    )]);
    section.say(&format!(
        "{APPLICATIONS} applications, {APPLICATIONS} models, {CONTAINERS} containers, no requests for {} s:",
        span.as_secs()
    ));
    let share = used.as_secs_f64() / span.as_secs_f64();
    let rows = [vec![percent(share), format!("{:.0} MB", cluster.server().megabytes()?)]];
    section.table(&["of one core", "memory (resident)"], &rows);
    Ok(())
}
