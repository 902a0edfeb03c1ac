//! What the queue of a model costs each query, without anybody else at its lock.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::time::{Duration, Instant};

use clipper_frontend::queue::{Queue, Work};
use clipper_frontend::task::Task;
use clipper_rpc::input::{Input, InputType};
use clipper_rpc::names::ModelId;
use clipper_rpc::output::Output;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn push_and_take(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push, take and finish");
    let input = Input::doubles(&[0.5; 8]);
    let output = Output::text("0.5");
    for batch in [1, 64] {
        let model = ModelId {
            name: "m".parse().expect("it is a valid name"),
            version: "1".parse().expect("it is a valid version"),
        };
        let queue = Queue::new(model, InputType::Doubles, 10_000);
        queue.join(1, Box::new(|| {}));
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("batch", batch), |bencher| {
            bencher.iter(|| {
                let deadline = Instant::now() + Duration::from_secs(1);
                let answers: Vec<_> = (0..batch)
                    .map(|_| {
                        let (task, answer) = Task::new(input.clone(), deadline);
                        queue.push(task).expect("the queue has room");
                        answer
                    })
                    .collect();
                let Work::Batch(tasks) = queue.take(1, batch) else { unreachable!("tasks wait") };
                tasks.into_iter().for_each(|task| task.finish(Ok(output.clone())));
                answers
            });
        });
    }
    group.finish();
}

criterion_group!(benches, push_and_take);
criterion_main!(benches);
