//! Answers with the sum of each vector, or with the length of each text or byte string.

use clipper_container::{Config, Error, InputBatch, Model, OutputBatch, serve};

struct Sum;

impl Model for Sum {
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
        let sums: Vec<f64> = match inputs.numbers() {
            Some(vectors) => {
                vectors.map(|vector| vector.iter().fold(0.0, |sum, element| sum + element)).collect()
            }
            None => inputs.lengths().iter().map(|&length| f64::from(length)).collect(),
        };
        Ok(OutputBatch::doubles(&sums))
    }
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    serve(Config::from_environment()?, Sum)
}
