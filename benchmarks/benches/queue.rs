//! What the queue of a model costs each query, without anybody else at its lock.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::time::{Duration, Instant};

use std::sync::Arc;

use clipper_frontend::Capacity;
use clipper_frontend::parts::Controller;
use clipper_frontend::parts::{Computation, Waiter};
use clipper_frontend::parts::{Delivery, Mailbox};
use clipper_frontend::parts::{Entry, Queue, Readiness, Work};
use clipper_rpc::catalog::{Batching, BatchingStrategy};
use clipper_rpc::input::{Input, InputType};
use clipper_rpc::names::ModelId;
use clipper_rpc::output::Output;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn push_and_take(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push, take and finish");
    let input = Input::doubles(&[0.5; 8]);
    let outcome = Ok(Output::text("0.5"));
    let mailbox = Arc::new(Mailbox::default());
    for size in [1, 64] {
        let model = ModelId {
            name: "m".parse().expect("it is a valid name"),
            version: "1".parse().expect("it is a valid version"),
        };
        let queue = Queue::new(1, model, InputType::Doubles, Capacity { queries: 10_000, bytes: 1 << 30 });
        queue.join(1, size, Box::new(|| {}));
        let batching = Batching { strategy: BatchingStrategy::Fixed, ..Batching::default() };
        let mut controller = Controller::new(batching, size);
        let mut ready = Readiness {
            replica: 1,
            controller: &mut controller,
            in_flight: 0,
            lead: Duration::ZERO,
            idle: Some(Duration::ZERO),
            may_wait: true,
        };
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("batch", size), |bencher| {
            bencher.iter(|| {
                let now = Instant::now();
                let deadline = now + Duration::from_secs(1);
                let answers: Vec<_> = (0..size)
                    .map(|_| {
                        let (reply, answer) = mailbox.reply();
                        let computation =
                            Computation::new(input.clone(), None, Waiter { deadline, reply, shared: None });
                        queue.push([Entry::new(Arc::new(computation), deadline, now)], now);
                        answer
                    })
                    .collect();
                let Work::Batch(batch) = queue.take(&mut ready) else { unreachable!("queries wait") };
                let mut delivery = Delivery::default();
                batch.computations.iter().for_each(|one| one.finish(&outcome, &mut delivery));
                drop(delivery);
                mailbox.hand_out();
                answers
            });
        });
    }
    group.finish();
}

criterion_group!(benches, push_and_take);
criterion_main!(benches);
