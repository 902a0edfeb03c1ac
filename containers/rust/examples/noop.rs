//! Answers every input with the same text: measures everything but a model.

use clipper_container::{Config, Error, InputBatch, Model, OutputBatch, serve};

struct Noop;

impl Model for Noop {
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
        Ok(OutputBatch::doubles(&vec![0.0; inputs.len()]))
    }
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    serve(Config::from_environment()?, Noop)
}
