//! What a batch costs on the wire, in this process: joining, encoding and decoding, by the size of its inputs.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::collections::BTreeMap;
use std::hint::black_box;

use clipper_rpc::input::{Input, InputBatch, InputType};
use clipper_rpc::message::{FromContainer, Predict, Prediction, ToContainer};
use clipper_rpc::output::OutputBatch;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BATCH: usize = 64;

fn predict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("predict");
    for length in [8, 784] {
        let inputs: Vec<Input> = (0..BATCH).map(|_| Input::doubles(&vec![0.5; length])).collect();
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::new("join and encode", length), |bencher| {
            bencher.iter(|| {
                let inputs = InputBatch::join(InputType::Doubles, black_box(&inputs));
                ToContainer::Predict(Predict { id: 1, budget_micros: 20_000, inputs }).encode()
            });
        });
        let inputs = InputBatch::join(InputType::Doubles, &inputs);
        let frames = ToContainer::Predict(Predict { id: 1, budget_micros: 20_000, inputs }).encode();
        group.bench_function(BenchmarkId::new("decode", length), |bencher| {
            bencher.iter(|| ToContainer::decode(black_box(&frames)));
        });
    }
    group.finish();
}

fn prediction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prediction");
    group.throughput(Throughput::Elements(BATCH as u64));
    let forms =
        [("doubles", OutputBatch::doubles(&[0.5; BATCH])), ("texts", OutputBatch::texts(vec!["0.5"; BATCH]))];
    for (form, outputs) in forms {
        let message = FromContainer::Prediction(Prediction {
            id: 1,
            elapsed_micros: 900,
            outputs,
            errors: BTreeMap::new(),
        });
        let frames = message.encode();
        group.bench_function(BenchmarkId::new("decode", form), |bencher| {
            bencher.iter(|| FromContainer::decode(black_box(&frames), [(1, BATCH)].into_iter()));
        });
        group.bench_function(BenchmarkId::new("encode", form), |bencher| bencher.iter(|| message.encode()));
    }
    group.finish();
}

criterion_group!(benches, predict, prediction);
criterion_main!(benches);
