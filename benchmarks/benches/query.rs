//! What parsing a request's body costs, by its type and size.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::hint::black_box;

use clipper_frontend::Query;
use clipper_rpc::input::InputType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn numbers(length: usize) -> String {
    let numbers: Vec<String> = (0..length).map(|i| format!("{:.15}", (i as f64).sin())).collect();
    format!("{{\"input\": [{}]}}", numbers.join(", "))
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let bodies = [
        (InputType::Doubles, 8, numbers(8)),
        (InputType::Doubles, 784, numbers(784)),
        (InputType::Floats, 784, numbers(784)),
        (InputType::Ints, 784, format!("{{\"input\": {:?}}}", (0..784).collect::<Vec<i32>>())),
        (InputType::Strings, 1024, format!("{{\"input\": {:?}}}", "x".repeat(1024))),
        (InputType::Bytes, 1024, format!("{{\"input\": {:?}}}", "QUJD".repeat(341))),
    ];
    for (input_type, length, body) in bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new(input_type.as_str(), length), |bencher| {
            bencher.iter(|| Query::parse(black_box(body.as_bytes()), input_type, 1));
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
