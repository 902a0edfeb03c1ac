//! Whether many connections cost throughput.

use serde_json::json;

use crate::cluster::{Bare, Cluster};
use crate::generator::Measurement;
use crate::section::Section;
use crate::sections::growth;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let bare = Bare::start()?;
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    cluster.deploy("noop", &["noop"], json!({}))?;
    cluster.add_app("noop", "noop", 1000, json!({}))?;
    section.commands(cluster.transcript());
    let mut steps = Vec::new();
    for connections in [1_u32, 16, 64, 256, 1024, 4096] {
        let flags = format!("--unique --connections {connections} {}", section.duration());
        let measurements = [
            Measurement::new("bare", &bare.query(), "doubles/predict", &flags),
            Measurement::new(format!("{connections} connections"), &cluster.query(), "noop/predict", &flags),
        ];
        steps.push((f64::from(connections), section.compare(&measurements)?));
    }
    section.say("8 doubles, Rust noop, closed loop, in turns with the bare server.");
    growth::tell(section, "connections", "connections", &steps)
}
