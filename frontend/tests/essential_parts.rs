//! A frontend one of whose essential parts ends: it ends too, with the name of the part, and is ready no more.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::future::pending;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clipper_frontend::{Config, Error, Frontend};
use clipper_rpc::catalog::{
    ExchangeError, FollowError, FollowRequest, FollowResponse, Management, Position, Snapshot, Update,
};
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

/// The part that calls management, and panics in the call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Breaks {
    Follower,
    Exchange,
}

/// Management with one application that learns. A call of it panics once it is told to.
struct Scripted {
    breaks: Breaks,
    has_answered: AtomicBool,
    panic: Notify,
}

impl Scripted {
    async fn panic(&self, called: Breaks) {
        if self.breaks == called {
            self.panic.notified().await;
            panic!("the test wants it");
        }
        pending::<()>().await;
    }
}

impl Management for Scripted {
    fn follow(&self, _: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
        async {
            if self.has_answered.swap(true, Ordering::Relaxed) {
                self.panic(Breaks::Follower).await;
            }
            Ok(FollowResponse {
                number: 1,
                position: Position { run: Uuid::nil(), revision: 1 },
                update: Update::Snapshot { snapshot: snapshot() },
                frontends: Vec::new(),
                container_key: None,
            })
        }
        .boxed()
    }

    fn exchange(&self, _: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
        async {
            self.panic(Breaks::Exchange).await;
            Err(ExchangeError::Failed("it is never reached".to_owned()))
        }
        .boxed()
    }
}

fn snapshot() -> Snapshot {
    let snapshot = json!({
        "applications": [{
            "name": "app", "input_type": "doubles", "default_output": "0", "latency_slo_micros": 1000,
            "linked_models": ["m"],
            "selection": {"policy": {"policy": "exp3"}},
        }],
        "models": [{
            "name": "m", "current_version": "1", "versions": {"1": {"input_type": "doubles"}},
        }],
    });
    serde_json::from_value(snapshot).unwrap()
}

/// The end of a frontend whose management panics in a call of that part, once the frontend was ready.
async fn end_of(breaks: Breaks) -> String {
    let config = Config {
        query_address: ([127, 0, 0, 1], 0).into(),
        rpc_address: ([127, 0, 0, 1], 0).into(),
        http_workers: Some(1.try_into().unwrap()),
        ..Config::default()
    };
    let frontend = Frontend::bind(config).unwrap();
    let address = frontend.query_address();
    let panic = Notify::new();
    let management = Arc::new(Scripted { breaks, has_answered: AtomicBool::new(false), panic });
    let scripted = Arc::clone(&management);
    let running = actix_rt::spawn(frontend.run(scripted, pending()));
    let ready = format!("http://{address}/readyz");
    let is_ready = async || reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200);
    while !is_ready().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    management.panic.notify_one();
    let ended = timeout(Duration::from_secs(30), running).await.expect("it ends").unwrap();
    let Err(Error::PartEnded(ended)) = ended else { panic!("{ended:?}") };
    assert!(!is_ready().await);
    timeout(Duration::from_secs(30), async {
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("nobody listens any more");
    ended.to_string()
}

#[actix_rt::test]
async fn a_frontend_whose_follower_panics_ends_with_that_reason() {
    assert_eq!(
        end_of(Breaks::Follower).await,
        "an essential part has ended, the actor that follows management: it panicked"
    );
}

#[actix_rt::test]
async fn a_frontend_whose_exchange_panics_ends_with_that_reason() {
    assert_eq!(
        end_of(Breaks::Exchange).await,
        "an essential part has ended, the exchange with management of what is learned: it panicked"
    );
}
