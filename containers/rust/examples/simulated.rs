//! A model that takes the time it is told to, for measurements: `simulated --help` has the ways.
//!
//! It sleeps, as a model on an accelerator leaves the processor alone, and answers 0 for each input.

use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use clipper_container::{Config, Error, InputBatch, Model, OutputBatch, serve};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};

/// A model that takes (fixed + per item x inputs + step x started groups of inputs) x noise, and now and then longer.
#[derive(Debug, Parser)]
struct Timing {
    /// Milliseconds for each batch
    #[arg(long, env = "SIMULATED_FIXED_MS", default_value_t = 0.0)]
    fixed_ms: f64,
    /// Milliseconds for each input
    #[arg(long, env = "SIMULATED_PER_ITEM_MS", default_value_t = 0.0)]
    per_item_ms: f64,
    /// Milliseconds for each group of inputs that is begun, as on hardware that computes so many at once
    #[arg(long, env = "SIMULATED_STEP_MS", default_value_t = 0.0)]
    step_ms: f64,
    /// How many inputs are a group
    #[arg(long, env = "SIMULATED_STEP_SIZE", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    step_size: u32,
    /// Multiply each time by e^(NOISE x a standard normal number): lognormal, with a median of 1
    #[arg(long, env = "SIMULATED_NOISE", default_value_t = 0.0)]
    noise: f64,
    /// Stall a batch with this probability ...
    #[arg(long, env = "SIMULATED_STALL_PROBABILITY", default_value_t = 0.0)]
    stall_probability: f64,
    /// ... for these many milliseconds
    #[arg(long, env = "SIMULATED_STALL_MS", default_value_t = 500.0)]
    stall_ms: f64,
    /// Pause at the first batch after every so many milliseconds (0: never), as a garbage collector does ...
    #[arg(long, env = "SIMULATED_PAUSE_EVERY_MS", default_value_t = 0.0)]
    pause_every_ms: f64,
    /// ... for these many milliseconds
    #[arg(long, env = "SIMULATED_PAUSE_MS", default_value_t = 50.0)]
    pause_ms: f64,
    /// What the random choices follow from
    #[arg(long, env = "SIMULATED_SEED", default_value_t = 1)]
    seed: u64,
}

struct Simulated {
    noise: LogNormal<f64>,
    random: StdRng,
    paused: Instant,
    timing: Timing,
}

impl Simulated {
    fn new(timing: Timing) -> Result<Self, rand_distr::NormalError> {
        Ok(Self {
            noise: LogNormal::new(0.0, timing.noise)?,
            random: StdRng::seed_from_u64(timing.seed),
            paused: Instant::now(),
            timing,
        })
    }

    /// How long a batch takes, in milliseconds.
    fn millis(&mut self, inputs: usize) -> f64 {
        let timing = &self.timing;
        let groups = inputs.div_ceil(timing.step_size as usize);
        let steady = timing.fixed_ms + timing.per_item_ms * inputs as f64 + timing.step_ms * groups as f64;
        let mut millis = steady * self.noise.sample(&mut self.random);
        if self.random.random::<f64>() < timing.stall_probability {
            millis += timing.stall_ms;
        }
        let since = self.paused.elapsed().as_secs_f64() * 1e3;
        if timing.pause_every_ms > 0.0 && since >= timing.pause_every_ms {
            self.paused = Instant::now();
            millis += timing.pause_ms;
        }
        millis
    }
}

impl Model for Simulated {
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
        let millis = self.millis(inputs.len());
        thread::sleep(Duration::try_from_secs_f64(millis / 1e3).map_err(|error| error.to_string())?);
        Ok(OutputBatch::doubles(&vec![0.0; inputs.len()]))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let model = Simulated::new(Timing::parse())?;
    serve(Config::from_environment()?, model).map_err(|error: Error| error.into())
}
