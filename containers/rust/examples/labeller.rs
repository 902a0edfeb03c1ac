//! A model that is right as often as it is told to be, for studies of selection: `labeller --help` has the ways.
//!
//! An input is `[id, label, case, ...]`: the model is shown what is right, and says it, or one of the other labels. Whether it is
//! right depends on the input and the seed alone, so that a study can be repeated.

use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use clipper_container::{Config, Error, InputBatch, Model, OutputBatch, serve};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp};

/// A model that answers the label in its input, [id, label, case], with some probability, and otherwise any other.
#[derive(Debug, Parser)]
struct Settings {
    /// Labels are 0 up to this, exclusive
    #[arg(long, env = "LABELLER_CLASSES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    classes: u32,
    /// How often the answer is right
    #[arg(long, env = "LABELLER_ACCURACY", default_value_t = 1.0, value_parser = probability)]
    accuracy: f64,
    /// How often it is right where the input's third number, 0 if there is none, is CASE; can be repeated
    #[arg(long, value_name = "CASE=ACCURACY", value_parser = case)]
    in_case: Vec<(u32, f64)>,
    /// The part of the time in which it stalls, beginning at random moments, below 1 ...
    #[arg(long, env = "LABELLER_STALL_SHARE", default_value_t = 0.0, value_parser = probability)]
    stall_share: f64,
    /// ... for these many milliseconds each time
    #[arg(long, env = "LABELLER_STALL_MS", default_value_t = 500.0)]
    stall_ms: f64,
    /// What the random choices follow from
    #[arg(long, env = "LABELLER_SEED", default_value_t = 1)]
    seed: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("expected a number from 0 to 1".to_owned()) }
}

fn case(text: &str) -> Result<(u32, f64), String> {
    let (case, accuracy) = text.split_once('=').ok_or("expected CASE=ACCURACY, such as 1=0.5")?;
    let case = case.parse().map_err(|_| "expected a whole number before '='".to_owned())?;
    Ok((case, probability(accuracy)?))
}

/// Moments at which a model begins to stall.
struct Stalls {
    gaps: Exp<f64>,
    length: Duration,
    random: StdRng,
    next: Instant,
}

impl Stalls {
    /// None if it never stalls.
    fn new(settings: &Settings) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        if settings.stall_share == 0.0 {
            return Ok(None);
        }
        if settings.stall_share >= 1.0 {
            return Err("--stall-share must be below 1: such a model would never answer".into());
        }
        let length = Duration::try_from_secs_f64(settings.stall_ms / 1e3)?;
        let mean_gap = length.as_secs_f64() * (1.0 / settings.stall_share - 1.0);
        let mut stalls = Self {
            gaps: Exp::new(1.0 / mean_gap)?,
            length,
            random: StdRng::seed_from_u64(settings.seed),
            next: Instant::now(),
        };
        let gap = stalls.gap();
        stalls.next += gap;
        Ok(Some(stalls))
    }

    fn gap(&mut self) -> Duration {
        Duration::from_secs_f64(self.gaps.sample(&mut self.random))
    }

    /// Sleeps for the rest of a stall that has begun. Those that are over have delayed nobody.
    fn wait(&mut self) {
        while self.next <= Instant::now() {
            let end = self.next + self.length;
            thread::sleep(end.saturating_duration_since(Instant::now()));
            self.next = end + self.gap();
        }
    }
}

struct Labeller {
    settings: Settings,
    stalls: Option<Stalls>,
}

impl Labeller {
    fn answer(&self, input: &[f64]) -> Result<u32, String> {
        let (Some(id), Some(label)) = (input.first(), input.get(1)) else {
            return Err(format!("expected [id, label] or [id, label, case], got {} numbers", input.len()));
        };
        let classes = self.settings.classes;
        if !(0.0..f64::from(classes)).contains(label) {
            return Err(format!("expected a label of 0 up to {classes}, exclusive, got {label}"));
        }
        let (label, case) = (*label as u32, input.get(2).map_or(0, |case| *case as u32));
        let accuracy = self.settings.in_case.iter().find(|(of, _)| *of == case);
        let accuracy = accuracy.map_or(self.settings.accuracy, |(_, accuracy)| *accuracy);
        // A product of odd numbers, so that the models of one input draw apart.
        let seed = id.to_bits() ^ self.settings.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = StdRng::seed_from_u64(seed);
        let right = random.random::<f64>() < accuracy;
        let other = (label + random.random_range(1..classes)) % classes;
        Ok(if right { label } else { other })
    }
}

impl Model for Labeller {
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
        if let Some(stalls) = &mut self.stalls {
            stalls.wait();
        }
        let inputs = inputs.numbers().ok_or("this model takes numbers")?;
        let answers: Result<Vec<u32>, String> = inputs.map(|input| self.answer(&input)).collect();
        Ok(OutputBatch::texts(answers?.into_iter().map(|answer| answer.to_string())))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let settings = Settings::parse();
    let stalls = Stalls::new(&settings)?;
    serve(Config::from_environment()?, Labeller { settings, stalls }).map_err(|error: Error| error.into())
}
