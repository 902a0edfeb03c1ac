use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Addr, Arbiter};
use clipper_rpc::catalog::{self, Batching, BatchingStrategy};
use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{Selection, Uid};
use clipper_server::Essentials;
use serde_json::{Value, json};

use super::*;
use crate::application::actor::{Application, Configure};
use crate::batching::Controller;
use crate::computation::Pending;
use crate::computation::cache::PredictionCache;
use crate::computation::failure::Failure;
use crate::computation::mailbox::{Delivery, Mailbox};
use crate::prediction::{ModelCaller, Origin, Predictor};
use crate::queue::{Capacity, Queue, Readiness, Work};
use crate::queue::{ModelView, VersionView};
use crate::selection::decisions::{Decisions, LISTENING};
use crate::selection::explanation::{Absence, Ended};
use crate::selection::states::Versioned;
use crate::selection::tests::facilities;
use crate::worker::Timers;

/// So long that nobody waits it out.
const LONG: Duration = Duration::from_secs(600);

/// Waited out, and long enough for what is to come before it.
const SHORT: Duration = Duration::from_millis(500);

/// An application over models `a`, `b`, ..., each with one replica that does what the test says.
struct Fixture {
    application: Arc<ApplicationView>,
    queues: Vec<Arc<Queue>>,
    decisions: Arc<Decisions>,
    predictor: Predictor,
    /// Learns as long as it is held.
    _actor: Addr<Application>,
}

impl Fixture {
    fn new(models: usize, objective: Duration, selection: Value) -> Self {
        let selection: Selection = serde_json::from_value(selection).unwrap();
        let names: Vec<_> = "abcdefgh".chars().take(models).map(String::from).collect();
        let queue = |(number, name): (u64, &String)| {
            let id = ModelId { name: name.parse().unwrap(), version: "1".parse().unwrap() };
            let capacity = Capacity { queries: 100, bytes: 1 << 20 };
            let queue = Arc::new(Queue::new(number, id, InputType::Strings, capacity));
            queue.join(1, 100, Box::new(|| {}));
            queue
        };
        let queues: Vec<_> = (1..).zip(&names).map(queue).collect();
        let view = |queue: &Arc<Queue>| {
            let version = VersionView { queue: Arc::clone(queue), cache: true };
            ModelView {
                name: queue.model().name.clone(),
                current: Some(queue.model().version.clone()),
                versions: BTreeMap::from([(queue.model().version.clone(), version)]),
            }
        };
        let facilities = Arc::new(facilities());
        let decisions = Arc::clone(&facilities.decisions);
        let configure = Configure {
            application: catalog::Application {
                name: "app".parse().unwrap(),
                input_type: InputType::Strings,
                default_output: "default".to_owned(),
                latency_slo_micros: objective.as_micros().try_into().unwrap(),
                linked_models: names.iter().map(|name| name.parse().unwrap()).collect(),
                cache: true,
                max_concurrent_requests: None,
                on_overload: catalog::OnOverload::default(),
                selection,
            },
            models: queues.iter().map(view).collect(),
        };
        let part = Essentials::default().part("the actor of an application");
        let handle = Application::launch(configure, &facilities, &Arbiter::current(), part);
        let application = handle.view.load_full();
        let timers = Rc::<Timers>::default();
        actix_rt::spawn(Rc::clone(&timers).run());
        let models = ModelCaller {
            cache: Arc::new(PredictionCache::new(1 << 20)),
            timers,
            send_buffer: Rc::default(),
            mailbox: Arc::new(Mailbox::default()),
        };
        let predictor = Predictor { models, query_ids: Arc::default() };
        Self { application, queues, decisions, predictor, _actor: handle.actor }
    }

    async fn predict_all(
        &self,
        inputs: &[&str],
        options: PredictOptions,
    ) -> Result<Vec<Prediction>, OptionsError> {
        let inputs = inputs.iter().map(|text| Input::string(text)).collect();
        self.predictor.predict(&self.application, inputs, &options, Instant::now()).await
    }

    async fn predict(&self, input: &str) -> Prediction {
        self.predict_all(&[input], PredictOptions::default()).await.unwrap().remove(0)
    }

    /// What a model is given now.
    fn take(&self, model: usize) -> Vec<Pending> {
        self.predictor.models.send_buffer.flush();
        let batching = Batching { strategy: BatchingStrategy::Fixed, ..Batching::default() };
        let work = self.queues[model].take(&mut Readiness {
            replica: 1,
            controller: &mut Controller::new(batching, 100),
            in_flight: 0,
            lead: Duration::ZERO,
            idle: Some(Duration::ZERO),
            may_wait: false,
        });
        match work {
            Work::Batch(batch) => batch.computations,
            _ => Vec::new(),
        }
    }

    fn finish(&self, computations: &[Pending], outcome: &crate::computation::failure::Verdict) {
        assert!(!computations.is_empty(), "it was not asked");
        let (source, mut delivery) = (crate::computation::cache::tests::source(), Delivery::default());
        computations.iter().for_each(|computation| computation.answer(outcome, &source, &mut delivery));
        drop(delivery);
        self.predictor.models.mailbox.hand_out();
    }

    /// Has a model answer what it is asked now.
    fn answer(&self, model: usize, output: &str) {
        self.finish(&self.take(model), &Ok(Output::text(output)));
    }

    /// Has a model fail what it is asked now.
    fn fail(&self, model: usize) {
        let failure =
            Failure::ContainerError { model: self.queues[model].model().clone(), problem: "said no".into() };
        self.finish(&self.take(model), &Err(failure));
    }

    /// A prediction while the models behave so.
    async fn while_they(&self, behave: impl FnOnce(&Self)) -> Prediction {
        let (prediction, ()) = tokio::join!(self.predict("x"), async { behave(self) });
        prediction
    }

    fn explain(&self, prediction: &Prediction) -> Value {
        serde_json::from_str(&self.decisions.explain(prediction.query_id).unwrap()).unwrap()
    }

    fn decided(&self, prediction: &Prediction) -> Arc<Decided> {
        self.decisions.get(prediction.query_id).unwrap()
    }
}

fn majority() -> Value {
    json!({"policy": {"policy": "majority_vote"}})
}

fn mean() -> Value {
    json!({"policy": {"policy": "mean"}})
}

fn text(prediction: &Prediction) -> &str {
    match &prediction.output {
        Output::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

fn selected(prediction: &Prediction) -> (f64, String) {
    let selected = prediction.selected.as_ref().unwrap();
    (selected.confidence, selected.models.iter().map(|name| name.as_str()).collect())
}

fn reason(prediction: &Prediction) -> &'static str {
    match &prediction.origin {
        Origin::Failure(failure) => failure.reason(),
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn once_all_have_answered_their_votes_are_combined_and_recorded() {
    let fixture = Fixture::new(3, LONG, majority());
    let prediction = fixture
        .while_they(|models| {
            models.answer(1, "dog");
            models.answer(0, "cat");
            models.answer(2, "cat");
        })
        .await;
    assert_eq!(text(&prediction), "cat");
    assert_eq!(selected(&prediction), (0.6667, "abc".to_owned()));
    assert!(matches!(prediction.origin, Origin::Model));
    let decided = fixture.decided(&prediction);
    assert_eq!(decided.course.ended, Ended::Complete);
    assert_eq!(decided.outputs, ["cat", "dog", "cat"].map(|text| Some(Output::text(text))));
    assert_eq!(decided.decision.asked, None);
    let again = fixture.predict("x").await;
    assert!(matches!(again.origin, Origin::Cache), "{again:?}");
    assert_ne!(again.query_id, prediction.query_id);
    assert_eq!(fixture.decided(&again).outputs, decided.outputs);
}

#[actix::test]
async fn a_vote_that_is_certain_waits_for_nobody_and_spares_who_was_not_asked_yet() {
    let fixture = Fixture::new(3, LONG, majority());
    let prediction = fixture
        .while_they(|models| {
            models.answer(0, "cat");
            models.answer(1, "cat");
        })
        .await;
    assert_eq!((text(&prediction), selected(&prediction)), ("cat", (0.6667, "ab".to_owned())));
    let decided = fixture.decided(&prediction);
    assert_eq!(decided.course.ended, Ended::Certain);
    assert_eq!(decided.course.absences, [(2, Absence::Unneeded)]);
    assert!(decided.since.get().is_some(), "it is not listened to");
    assert!(fixture.take(2).is_empty(), "its query has gone as its client has");
}

#[actix::test]
async fn a_model_that_is_at_its_answer_when_the_vote_is_certain_is_heard_all_the_same() {
    let fixture = Fixture::new(4, LONG, majority());
    let mut held = Vec::new();
    let prediction = fixture
        .while_they(|models| {
            held = models.take(0);
            (1..4).for_each(|model| models.answer(model, "cat"));
        })
        .await;
    assert_eq!((text(&prediction), selected(&prediction)), ("cat", (0.75, "bcd".to_owned())));
    let decided = fixture.decided(&prediction);
    assert_eq!(decided.course.absences, [(0, Absence::Unneeded)]);
    let mut listened = std::pin::pin!(decided.listened());
    assert!(futures_util::poll!(&mut listened).is_pending(), "feedback waits for it");
    assert_eq!(decided.known(0), None);
    fixture.finish(&held, &Ok(Output::text("dog")));
    listened.await;
    assert_eq!((decided.known(0), decided.known(1)), (Some(&Output::text("dog")), decided.known(2)));
    assert_eq!(decided.outputs[0], None, "the answer was given without it");
    let told = &fixture.explain(&prediction)["candidates"][0];
    assert_eq!((&told["in_time"], &told["output"]), (&json!(false), &json!("dog")));
    assert_eq!(told["absence"], "it answered after the answer, which was certain without it");
}

#[actix::test]
async fn nobody_is_listened_to_who_fails_after_the_answer_or_has_not_spoken_by_the_deadline() {
    for fails in [true, false] {
        let fixture = Fixture::new(3, if fails { LONG } else { SHORT }, majority());
        let mut held = Vec::new();
        let prediction = fixture
            .while_they(|models| {
                held = models.take(2);
                (0..2).for_each(|model| models.answer(model, "cat"));
            })
            .await;
        let decided = fixture.decided(&prediction);
        assert!(decided.since.get().is_none());
        if fails {
            fixture.finish(&held, &Err(Failure::NoLinkedModels));
        }
        decided.listened().await;
        assert_eq!(decided.known(2), None);
        assert_eq!(decided.deadline <= Instant::now(), !fails);
    }
}

#[actix::test]
async fn nobody_is_listened_to_for_long_however_long_the_objective_is() {
    let fixture = Fixture::new(3, 2 * LONG, majority());
    let mut held = Vec::new();
    let prediction = fixture
        .while_they(|models| {
            held = models.take(2);
            (0..2).for_each(|model| models.answer(model, "cat"));
        })
        .await;
    let decided = fixture.decided(&prediction);
    assert!(decided.since.get().is_none(), "it is listened to");
    assert!(decided.deadline <= Instant::now() + LISTENING);
}

#[actix::test]
async fn where_too_many_are_listened_to_no_feedback_waits_and_it_is_counted() {
    let fixture = Fixture::new(3, LONG, majority());
    let places: Vec<_> = (0..20_000).map_while(|_| fixture.decisions.listen()).collect();
    let mut held = Vec::new();
    let prediction = fixture
        .while_they(|models| {
            held = models.take(2);
            (0..2).for_each(|model| models.answer(model, "cat"));
        })
        .await;
    let decided = fixture.decided(&prediction);
    assert!(decided.since.get().is_some_and(Vec::is_empty), "nobody waits for it");
    assert_eq!(decided.course.absences, [(2, Absence::Unneeded)]);
    assert_eq!(fixture.application.metrics.feedback.missed_outputs(), 1);
    drop(places);
    assert!(fixture.decisions.listen().is_some());
}

#[actix::test]
async fn those_who_have_failed_do_not_keep_a_vote_from_being_certain() {
    let fixture = Fixture::new(5, LONG, majority());
    let prediction = fixture
        .while_they(|models| {
            models.fail(0);
            models.fail(1);
            models.answer(2, "cat");
            models.answer(3, "cat");
        })
        .await;
    assert_eq!((text(&prediction), selected(&prediction)), ("cat", (0.4, "cd".to_owned())));
    assert_eq!(fixture.decided(&prediction).course.ended, Ended::Certain);
}

#[actix::test]
async fn a_straggler_costs_confidence_and_its_late_answer_is_kept() {
    let fixture = Fixture::new(3, SHORT, mean());
    let mut held = Vec::new();
    let begun = Instant::now();
    let prediction = fixture
        .while_they(|models| {
            models.answer(0, "1.5");
            held = models.take(1);
            models.answer(2, "1.5");
        })
        .await;
    assert!(begun.elapsed() >= SHORT, "an average is never certain");
    assert_eq!(selected(&prediction), (0.6667, "ac".to_owned()));
    assert!(matches!(prediction.origin, Origin::Model), "{prediction:?}");
    let decided = fixture.decided(&prediction);
    assert_eq!(
        (decided.course.ended, &*decided.course.absences),
        (Ended::Deadline, &[(1, Absence::Late)][..])
    );
    fixture.finish(&held, &Ok(Output::text("1.5")));
    assert_eq!(selected(&fixture.predict("x").await), (1.0, "abc".to_owned()));
}

#[actix::test]
async fn an_answer_that_is_not_sure_enough_becomes_the_default_and_says_so() {
    let selection = json!({"policy": {"policy": "majority_vote"}, "confidence_threshold": 0.7});
    let fixture = Fixture::new(3, LONG, selection);
    // Two that agree decide the output, but only the third can make it sure.
    for (third, sure) in [("cat", true), ("dog", false)] {
        let input = third;
        let (prediction, ()) = tokio::join!(fixture.predict(input), async {
            fixture.answer(0, "cat");
            fixture.answer(1, "cat");
            tokio::task::yield_now().await;
            fixture.answer(2, third);
        });
        assert_eq!(fixture.decided(&prediction).course.ended, Ended::Complete);
        if sure {
            assert_eq!((text(&prediction), selected(&prediction).0), ("cat", 1.0));
            continue;
        }
        assert_eq!(text(&prediction), "default");
        assert_eq!(reason(&prediction), "low_confidence");
        assert_eq!(selected(&prediction), (0.6667, "abc".to_owned()));
        let Origin::Failure(failure) = &prediction.origin else { unreachable!() };
        let words = "the confidence of 0.6667 is below the application's threshold of 0.7";
        assert_eq!(failure.to_string(), words);
        let told = fixture.explain(&prediction);
        assert_eq!((&told["combined"], &told["output"]), (&json!("cat"), &json!("default")));
    }
}

#[actix::test]
async fn a_decision_holds_on_to_no_batch_even_where_the_models_output_was_not_given() {
    let selection = json!({"policy": {"policy": "majority_vote"}, "confidence_threshold": 0.9});
    let fixture = Fixture::new(2, LONG, selection);
    let batch = bytes::Bytes::from(vec![0; 800]);
    let output = Output::Numbers(InputType::Doubles, batch.slice(..8));
    let prediction = fixture
        .while_they(|models| {
            models.finish(&models.take(0), &Ok(output.clone()));
            models.answer(1, "cat");
        })
        .await;
    assert_eq!(reason(&prediction), "low_confidence");
    let decided = fixture.decided(&prediction);
    assert_eq!(decided.course.unused, Some(output.clone()));
    for kept in [decided.outputs[0].as_ref(), decided.course.unused.as_ref()] {
        let Some(Output::Numbers(_, kept)) = kept else { panic!("{kept:?}") };
        assert!(!batch.as_ptr_range().contains(&kept.as_ptr()), "it is a part of the batch");
    }
}

#[actix::test]
async fn what_cannot_become_sure_any_more_is_not_waited_for() {
    let selection = json!({"policy": {"policy": "majority_vote"}, "confidence_threshold": 0.9});
    let fixture = Fixture::new(5, LONG, selection);
    let prediction = fixture
        .while_they(|models| {
            models.fail(0);
            (1..4).for_each(|model| models.answer(model, "cat"));
        })
        .await;
    assert_eq!((reason(&prediction), selected(&prediction).0), ("low_confidence", 0.6));
}

#[actix::test]
async fn where_none_answers_the_default_output_comes_with_the_most_telling_reason() {
    let fixture = Fixture::new(2, SHORT, majority());
    let prediction = fixture.while_they(|models| (0..2).for_each(|model| models.fail(model))).await;
    assert_eq!((reason(&prediction), text(&prediction)), ("container_error", "default"));
    assert_eq!(selected(&prediction), (0.0, String::new()));
    let prediction = fixture.while_they(|models| models.fail(0)).await;
    assert_eq!(reason(&prediction), "deadline", "the other one would have told");
    assert_eq!(fixture.decided(&prediction).decision.default_reason.as_deref(), Some("deadline"));

    fixture.queues[0].leave(1);
    let prediction = fixture.while_they(|models| models.fail(1)).await;
    assert_eq!(reason(&prediction), "container_error");
    fixture.queues[1].leave(1);
    let prediction = fixture
        .while_they(|models| {
            models.predictor.models.send_buffer.flush();
            models.predictor.models.mailbox.hand_out();
        })
        .await;
    assert_eq!(reason(&prediction), "no_connected_replicas");
}

#[actix::test]
async fn a_policy_that_asks_one_model_answers_with_its_output_or_the_default() {
    let fixture = Fixture::new(3, LONG, json!({"policy": {"policy": "exp3"}}));
    for fails in [false, true] {
        let mut chosen = None;
        let (prediction, ()) = tokio::join!(fixture.predict(if fails { "y" } else { "x" }), async {
            fixture.predictor.models.send_buffer.flush();
            let asked: Vec<_> = fixture.queues.iter().map(|queue| queue.depth().queries).collect();
            assert_eq!(asked.iter().sum::<usize>(), 1, "{asked:?}");
            let model = asked.iter().position(|&queries| queries == 1).unwrap();
            chosen = Some(model);
            if fails { fixture.fail(model) } else { fixture.answer(model, "cat") }
        });
        let decided = fixture.decided(&prediction);
        assert_eq!(decided.decision.asked, chosen);
        let propensities = &decided.decision.propensities;
        assert!((propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{propensities:?}");
        if fails {
            assert_eq!((reason(&prediction), selected(&prediction).0), ("container_error", 0.0));
        } else {
            assert_eq!((text(&prediction), selected(&prediction).0), ("cat", 0.5));
            assert_eq!(selected(&prediction).1.len(), 1);
        }
    }
}

/// What the application has learned, once that changed so often.
async fn learned(fixture: &Fixture, changes: u64) -> Arc<Versioned> {
    let states = &fixture.application.selector.as_ref().unwrap().states;
    while states.shared().version < changes {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    states.shared()
}

#[actix::test]
async fn a_query_that_a_model_misses_is_learned_once_and_one_that_it_answers_only_after_that() {
    let fixture = Fixture::new(2, LONG, json!({"policy": {"policy": "ucb1"}}));
    let first = fixture.while_they(|models| models.answer(0, "cat")).await;
    assert_eq!(fixture.decided(&first).decision.answered, Some(true));
    let cached = fixture.predict("x").await;
    assert_eq!(fixture.decided(&cached).decision.answered, None, "nobody was asked");

    let (missed, ()) = tokio::join!(fixture.predict("y"), async { fixture.fail(0) });
    assert_eq!(fixture.decided(&missed).decision.answered, Some(false));
    let after = learned(&fixture, 1).await.beliefs.availability(0);
    assert_eq!(after, 1.0 - 1.0 / 64.0, "the answers before it taught nothing");
    let (other, ()) = tokio::join!(fixture.predict("z"), async { fixture.answer(1, "cat") });
    assert_eq!(fixture.decided(&other).decision.asked, Some(1), "the other one is asked now");
    let (missed, ()) = tokio::join!(fixture.predict("zz"), async { fixture.fail(1) });
    assert_eq!(fixture.decided(&missed).decision.answered, Some(false));
    let learned = learned(&fixture, 2).await;
    assert_eq!((learned.version, learned.beliefs.availability(0)), (2, after), "each is learned once");
}

#[actix::test]
async fn what_clients_and_operators_bring_about_is_no_miss_of_a_model() {
    let fixture = Fixture::new(2, SHORT, json!({"policy": {"policy": "ucb1"}}));
    let tightened = PredictOptions { latency_slo: Some(SHORT / 50), ..PredictOptions::default() };
    let late = fixture.predict_all(&["tightened"], tightened).await.unwrap().remove(0);
    assert_eq!(reason(&late), "deadline");
    // A request that took most of the objective to arrive.
    let (inputs, arrived) = (vec![Input::string("slow")], Instant::now() - SHORT / 2);
    let options = PredictOptions::default();
    let slow =
        fixture.predictor.predict(&fixture.application, inputs, &options, arrived).await.unwrap().remove(0);
    assert_eq!(reason(&slow), "deadline");
    // More than the queue takes: those that wait in it are late, the others are refused.
    let many: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let (answers, ()) = tokio::join!(fixture.predict_all(&many, PredictOptions::default()), async {
        // They are asked in several turns.
        for _ in 0..10 {
            tokio::task::yield_now().await;
            fixture.predictor.models.send_buffer.flush();
        }
        fixture.predictor.models.mailbox.hand_out();
    });
    let answers = answers.unwrap();
    for answer in &answers {
        let expected = (reason(answer) != "queue_full").then_some(false);
        assert_eq!(fixture.decided(answer).decision.answered, expected, "{answer:?}");
    }
    assert!(answers.iter().any(|answer| reason(answer) == "queue_full"));
    for answer in [&late, &slow] {
        assert_eq!(fixture.decided(answer).decision.answered, None, "{answer:?}");
    }
}

#[actix::test]
async fn a_model_without_a_replica_is_no_candidate_while_another_has_one() {
    let fixture = Fixture::new(3, LONG, json!({"policy": {"policy": "exp3"}}));
    fixture.queues[0].leave(1);
    fixture.queues[2].leave(1);
    for input in ["x", "y", "z"] {
        let (prediction, ()) = tokio::join!(fixture.predict(input), async { fixture.answer(1, "cat") });
        assert_eq!(text(&prediction), "cat");
        let decision = &fixture.decided(&prediction).decision;
        assert_eq!((decision.asked, &*decision.away), (Some(1), &[0, 2][..]));
        assert_eq!(decision.propensities, [0.0, 1.0, 0.0]);
    }
    fixture.queues[1].leave(1);
    let prediction = fixture
        .while_they(|models| {
            models.predictor.models.send_buffer.flush();
            models.predictor.models.mailbox.hand_out();
        })
        .await;
    assert_eq!(reason(&prediction), "no_connected_replicas");
    let decision = &fixture.decided(&prediction).decision;
    assert_eq!((decision.answered, decision.away.len()), (None, 0), "none is better than another");
}

#[actix::test]
async fn each_model_is_asked_for_its_inputs_together_where_they_are_to_be_kept_so() {
    let fixture = Fixture::new(2, LONG, majority());
    let options = PredictOptions { keep_together: true, uid: Uid::new("anna"), ..PredictOptions::default() };
    let (predictions, ()) = tokio::join!(fixture.predict_all(&["x", "y", "z"], options), async {
        for model in 0..2 {
            let batch = fixture.take(model);
            let inputs: Vec<_> = batch.iter().map(|one| one.input().clone()).collect();
            assert_eq!(inputs, ["x", "y", "z"].map(Input::string));
            assert!(batch[0].goes_with(&batch[2]));
            fixture.finish(&batch, &Ok(Output::text("cat")));
        }
    });
    let predictions = predictions.unwrap();
    assert_eq!(predictions.len(), 3);
    for prediction in &predictions {
        assert_eq!(selected(prediction), (1.0, "ab".to_owned()));
        assert_eq!(fixture.decided(prediction).decision.uid, Uid::new("anna"));
    }
}

#[actix::test]
async fn a_version_is_pinned_of_a_single_linked_model_only() {
    let pin = |version: &str| PredictOptions {
        version: Some(version.parse().unwrap()),
        ..PredictOptions::default()
    };
    let several = Fixture::new(2, LONG, majority());
    let refused = several.predict_all(&["x"], pin("1")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "'version' cannot be given: it pins a version of a single linked model, and 2 are linked to application \
         'app'"
    );
    let single = Fixture::new(1, LONG, majority());
    let (answered, ()) =
        tokio::join!(single.predict_all(&["x"], pin("1")), async { single.answer(0, "cat") });
    assert_eq!(selected(&answered.unwrap()[0]), (1.0, "a".to_owned()));
    let refused = single.predict_all(&["x"], pin("2")).await.unwrap_err();
    assert_eq!(refused.to_string(), "model 'a' has no version '2'; it has: 1");
}

#[actix::test]
async fn a_context_that_the_policy_cannot_use_is_refused() {
    let fixture = Fixture::new(2, LONG, json!({"policy": {"policy": "linucb", "dimensions": 2}}));
    for context in [None, Some(vec![1.0])] {
        let refused =
            fixture.predict_all(&["x"], PredictOptions { context, ..PredictOptions::default() }).await;
        assert!(matches!(refused, Err(OptionsError::Context(_))), "{refused:?}");
    }
    assert!(fixture.decisions.len() == 0);
}

#[actix::test]
async fn an_application_without_a_policy_asks_its_first_model_only_and_records_nothing() {
    let fixture = Fixture::new(2, LONG, json!({}));
    assert!(fixture.application.selector.is_none());
    let prediction = fixture.while_they(|models| models.answer(0, "cat")).await;
    assert_eq!(text(&prediction), "cat");
    assert!(prediction.selected.is_none());
    assert!(fixture.take(1).is_empty() && fixture.decisions.len() == 0);
}

#[actix::test]
async fn feedback_asks_everybody_and_hears_who_answers() {
    let fixture = Fixture::new(3, LONG, json!({"policy": {"policy": "exp3"}}));
    let (application, predictor) = (&fixture.application, &fixture.predictor);
    let selector = application.selector.as_ref().unwrap();
    let input = Input::string("x");
    let deadline = Instant::now() + LONG;
    let (outputs, ()) = tokio::join!(predictor.ask_all(application, selector, &input, deadline), async {
        fixture.answer(0, "cat");
        fixture.fail(1);
        fixture.answer(2, "dog");
    });
    let outputs = outputs.into_iter().map(Result::ok).collect::<Vec<_>>();
    assert_eq!(outputs, [Some(Output::text("cat")), None, Some(Output::text("dog"))]);
    assert!(fixture.decisions.len() == 0);
}

/// How often other tasks have their turn while a future is awaited.
async fn turns_of_others<T>(future: impl Future<Output = T>) -> usize {
    let turns = Rc::new(std::cell::Cell::new(0));
    let others = actix_rt::spawn({
        let turns = Rc::clone(&turns);
        async move {
            loop {
                turns.update(|turns| turns + 1);
                tokio::task::yield_now().await;
            }
        }
    });
    future.await;
    others.abort();
    turns.get()
}

#[actix::test]
async fn others_have_their_turn_in_the_middle_of_a_large_request() {
    for selection in [majority(), json!({})] {
        let fixture = Fixture::new(2, LONG, selection);
        fixture
            .while_they(|models| {
                models.answer(0, "cat");
                if models.application.selector.is_some() {
                    models.answer(1, "cat");
                }
            })
            .await;
        let large = fixture.predict_all(&["x"; 10_000], PredictOptions::default());
        let turns = turns_of_others(async { assert_eq!(large.await.unwrap().len(), 10_000) }).await;
        assert!(turns >= 100, "{turns}");
        let defaults = fixture.predictor.defaults(&fixture.application, 10_000, &Failure::NoLinkedModels);
        let turns = turns_of_others(defaults).await;
        assert!(turns >= 50, "{turns}");
    }
}

#[actix::test]
async fn more_inputs_times_models_than_one_request_may_ask_are_refused() {
    let fixture = Fixture::new(3, LONG, majority());
    let error = fixture.predict_all(&["x"; 40_000], PredictOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("40000 inputs for 3 models are 120000 queries"), "{error}");
    assert!(fixture.take(0).is_empty(), "nobody was asked");
}
