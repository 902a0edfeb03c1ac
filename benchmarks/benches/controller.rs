//! What the batch-size controller costs a batch: learning from one, and deciding on the next.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::hint::black_box;
use std::time::Duration;

use clipper_frontend::parts::{Controller, Observation};
use clipper_rpc::catalog::{Batching, BatchingStrategy};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const STRATEGIES: [(&str, BatchingStrategy); 4] = [
    ("adaptive", BatchingStrategy::Adaptive),
    ("aimd", BatchingStrategy::Aimd),
    ("quantile", BatchingStrategy::Quantile),
    ("fixed", BatchingStrategy::Fixed),
];

/// A batch of a model that takes 20 ms, and 0.2 ms for each input.
fn answered(size: usize) -> Observation {
    let model_time = Duration::from_micros(20_000 + 200 * size as u64);
    let round_trip = model_time + Duration::from_micros(300);
    Observation {
        size,
        model_time,
        round_trip,
        latency: round_trip,
        budget: Duration::from_millis(100),
        behind: false,
    }
}

/// A controller that has seen batches of all sizes up to 500.
fn experienced(strategy: BatchingStrategy) -> Controller {
    let mut controller = Controller::new(Batching { strategy, wait_micros: None }, 1024);
    (0..2000).for_each(|i| controller.observe(&answered(1 + i * 37 % 500)));
    controller
}

fn controller(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("controller");
    for (name, strategy) in STRATEGIES {
        let mut controller = experienced(strategy);
        let mut size = 0;
        group.bench_function(BenchmarkId::new("observe", name), |bencher| {
            bencher.iter(|| {
                size = (size + 37) % 500;
                controller.observe(black_box(&answered(1 + size)));
            });
        });
        group.bench_function(BenchmarkId::new("limit", name), |bencher| {
            bencher.iter(|| controller.limit(black_box(Duration::from_millis(70))));
        });
    }
    let mut controller = experienced(BatchingStrategy::Adaptive);
    // All fit; more than one batch, in time; far more than can be served.
    for (name, waiting, earliest) in
        [("one batch", 100, 90), ("two batches", 300, 90), ("overload", 10_000, 10)]
    {
        let budgets: Vec<_> = (0..waiting)
            .map(|i| Duration::from_micros(earliest * 1000 + (100 - earliest) * 1000 * i / waiting))
            .collect();
        group.bench_function(BenchmarkId::new("plan", name), |bencher| {
            bencher.iter(|| {
                controller.plan(budgets.len(), black_box(&budgets).iter().copied(), Duration::ZERO, None)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, controller);
criterion_main!(benches);
