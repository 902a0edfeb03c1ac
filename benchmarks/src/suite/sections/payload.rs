//! What larger inputs cost.

use serde_json::json;

use crate::cluster::{Bare, Cluster};
use crate::generator::Measurement;
use crate::process::program;
use crate::section::Section;
use crate::sections::growth;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let bare = Bare::start()?;
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let noop = program("examples/noop")?.display().to_string();
    let model = json!({"model_name": "noop", "model_version": "1", "input_type": "bytes", "command": [noop]});
    cluster.must("deploy_model", &model)?;
    let app = json!({
        "name": "noop", "input_type": "bytes", "default_output": "-1.0", "latency_slo_micros": 5_000_000,
        "linked_models": ["noop"],
    });
    cluster.must("add_app", &app)?;
    section.commands(cluster.transcript());
    let mut steps = Vec::new();
    for bytes in [64_u32, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let flags = format!(
            "--unique --input-type bytes --input-length {bytes} --connections 16 --objective 5s {}",
            section.duration()
        );
        let measurements = [
            Measurement::new("bare", &bare.query(), "bytes/predict", &flags),
            Measurement::new(format!("{bytes} bytes"), &cluster.query(), "noop/predict", &flags),
        ];
        steps.push((f64::from(bytes), section.compare(&measurements)?));
    }
    section.say("Byte strings (a third longer as base64), Rust noop, 16 connections, closed loop, in turns with the bare server, which decodes them too.");
    growth::tell(section, "payload", "bytes", &steps)
}
