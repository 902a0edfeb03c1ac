//! What the metrics cost each request, each batch, and a scrape of much, without anybody else at them.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use clipper_frontend::parts::{ApplicationMetrics, Histogram, Outcome, ReplicaMetrics};
use criterion::{Criterion, criterion_group, criterion_main};

fn record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let application = ApplicationMetrics::new(Instant::now());
    let mut micros = 0;
    // Latencies as they come: all over three magnitudes.
    let mut latency = || {
        micros = (micros + 7919) % 20_000;
        Duration::from_micros(micros)
    };
    group.bench_function("a request with one input", |bencher| {
        bencher.iter(|| {
            application.request();
            application.record(black_box(Outcome::Predicted), latency());
        });
    });
    let replica = ReplicaMetrics::default();
    group.bench_function("a batch", |bencher| {
        bencher.iter(|| {
            replica.send_batch();
            replica.record_batch(black_box(64), latency(), latency());
        });
    });
    let histogram = Histogram::default();
    (0..20_000).for_each(|value| histogram.record(value));
    group.bench_function("a snapshot of a histogram of 20,000 values", |bencher| {
        bencher.iter(|| histogram.snapshot());
    });
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
