//! What the prediction cache costs a query: one that it answers, and one that it does not.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipper_frontend::parts::ModelMetrics;
use clipper_frontend::parts::Waiter;
use clipper_frontend::parts::{Claim, Key, PredictionCache, Source};
use clipper_frontend::parts::{Delivery, Mailbox};
use clipper_rpc::input::Input;
use clipper_rpc::output::Output;
use criterion::{Criterion, criterion_group, criterion_main};

fn look_up(criterion: &mut Criterion) {
    let mailbox = Arc::new(Mailbox::default());
    let outcome = Ok(Output::text("0.5"));
    let metrics = Arc::new(ModelMetrics::new(Instant::now()));
    let source = Arc::new(Source::new(Arc::clone(&metrics)));
    for length in [8_u32, 784] {
        let cache = Arc::new(PredictionCache::new(32 << 20));
        let key = |first: f64| {
            let mut values = vec![0.5; length as usize];
            values[0] = first;
            cache.key(1, Input::doubles(&values))
        };
        let compute = |key: Key| {
            let (reply, answer) = mailbox.reply();
            let deadline = Instant::now() + Duration::from_secs(1);
            let Claim::New(computation) =
                cache.claim(key, Waiter { deadline, reply, shared: None }, || None, &metrics)
            else {
                unreachable!("nobody else asks")
            };
            computation.answer(&outcome, &source, &mut Delivery::default());
            mailbox.hand_out();
            answer
        };
        let kept = key(0.0);
        compute(kept.clone());
        criterion.bench_function(&format!("a kept output, {length} doubles"), |bencher| {
            bencher.iter(|| cache.get(&kept).expect("it is kept"));
        });
        let mut first = 0.0;
        criterion.bench_function(&format!("a new input, {length} doubles"), |bencher| {
            bencher.iter(|| {
                first += 1.0;
                let key = key(first);
                assert!(cache.get(&key).is_none());
                compute(key)
            });
        });
    }
}

criterion_group!(benches, look_up);
criterion_main!(benches);
