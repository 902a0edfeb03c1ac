//! A container that answers by itself, as a test tells it to, and keeps a diary.
//!
//! It computes one batch after the other, each output the sum of its input and what the test adds. Invariant: it is never
//! turned away: if a frontend rejects it or does not know it any more, the test fails.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clipper_rpc::message::{FromContainer, Predict, Prediction, Register, ToContainer};
use clipper_rpc::output::OutputBatch;

use crate::cluster::Cluster;
use crate::raw_container::{RawContainer, numbers};

/// How often it looks whether it is to behave otherwise.
const PAUSE: Duration = Duration::from_millis(5);

/// A running container, gone when it is dropped.
pub struct Automaton {
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<()>>,
}

/// What the test and the container's thread tell each other.
struct Told {
    conduct: Conduct,
    addend: f64,
    batches: Vec<Vec<Vec<f64>>>,
    ending: bool,
}

#[derive(Clone)]
enum Conduct {
    Answer { after: Duration },
    Hold,
    Fail { message: String },
}

impl Automaton {
    /// Registers with the first frontend for version 1 of a model that takes doubles. It answers at once.
    pub async fn serve(cluster: &Cluster, model: &str) -> Self {
        Self::register(cluster, 0, RawContainer::registration(model)).await
    }

    /// Registers with a frontend. It answers at once.
    pub async fn register(cluster: &Cluster, frontend: usize, register: Register) -> Self {
        let mut container = RawContainer::connect(cluster.rpc_address(frontend));
        container.registered(register).await;
        let conduct = Conduct::Answer { after: Duration::ZERO };
        let told = Told { conduct, addend: 0.0, batches: Vec::new(), ending: false };
        let told = Arc::new(Mutex::new(told));
        let thread = std::thread::spawn({
            let told = Arc::clone(&told);
            move || run(container, &told)
        });
        Self { told, thread: Some(thread) }
    }

    /// Has it answer each batch after computing for so long.
    pub fn answer_after(&self, after: Duration) {
        lock(&self.told).conduct = Conduct::Answer { after };
    }

    /// Has it answer nothing until it is told otherwise.
    pub fn hold(&self) {
        lock(&self.told).conduct = Conduct::Hold;
    }

    /// Has it fail each batch in these words.
    pub fn fail(&self, message: &str) {
        lock(&self.told).conduct = Conduct::Fail { message: message.to_owned() };
    }

    /// Has it add that to each sum.
    pub fn add(&self, addend: f64) {
        lock(&self.told).addend = addend;
    }

    /// The batches that it was given so far: the inputs of each.
    pub fn batches(&self) -> Vec<Vec<Vec<f64>>> {
        lock(&self.told).batches.clone()
    }
}

impl Drop for Automaton {
    fn drop(&mut self) {
        lock(&self.told).ending = true;
        let ended = self.thread.take().expect("it is dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the container was turned away");
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().expect("nobody panics while holding it")
}

/// What the container does, until it is to end or is sent home.
fn run(mut container: RawContainer, told: &Mutex<Told>) {
    let mut held: VecDeque<(Predict, Instant)> = VecDeque::new();
    let mut pause = PAUSE;
    loop {
        container.wait(pause);
        let message = container.try_receive();
        let mut told = lock(told);
        match message {
            Some(ToContainer::Predict(batch)) => {
                told.batches.push(numbers(&batch));
                held.push_back((batch, Instant::now()));
            }
            Some(ToContainer::Drain) => told.ending = true,
            None => {}
            Some(other) => {
                drop(told);
                panic!("a container was told {other:?}");
            }
        }
        if told.ending {
            container.send(&FromContainer::Goodbye);
            return;
        }
        pause = act(&mut container, &mut held, &told);
    }
}

/// Answers what is due; how long to wait for news.
fn act(container: &mut RawContainer, held: &mut VecDeque<(Predict, Instant)>, told: &Told) -> Duration {
    while let Some((batch, begun)) = held.front() {
        let (id, spent) = (batch.id, begun.elapsed());
        let answer = match &told.conduct {
            Conduct::Hold => return PAUSE,
            Conduct::Answer { after } if spent < *after => return PAUSE.min(*after - spent),
            Conduct::Fail { message } => FromContainer::Error { id, message: message.clone() },
            Conduct::Answer { .. } => {
                let sum = |input: Vec<f64>| input.iter().sum::<f64>() + told.addend;
                let sums: Vec<_> = numbers(batch).into_iter().map(sum).collect();
                let outputs = OutputBatch::doubles(&sums);
                let elapsed_micros = u64::try_from(spent.as_micros()).expect("tests are short");
                FromContainer::Prediction(Prediction {
                    id,
                    elapsed_micros,
                    outputs,
                    errors: Default::default(),
                })
            }
        };
        container.send(&answer);
        held.pop_front();
        if let Some((_, begun)) = held.front_mut() {
            *begun = Instant::now();
        }
    }
    PAUSE
}
