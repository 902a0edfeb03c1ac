//! Management as frontends see it, the same in one process and over HTTP; above all the long poll by which they
//! follow the catalog.
//!
//! A call says all about the frontend and where it stands. It is answered at once if the catalog or the list of
//! frontends is not what the frontend knows, and otherwise when one of them changes, or after [`POLL_TIME`]
//! with no news. Invariant: a frontend that applies each answer and calls again misses no change, whatever
//! calls and answers are lost.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::{FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::secret::Secret;
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::catalog::{Catalog, Edit};
use crate::feed::Feed;
use crate::frontends::{Frontends, Presentation};
use crate::selection_state::SelectionStates;
use crate::writer::Writer;

/// How long a call waits for news.
const POLL_TIME: Duration = Duration::from_secs(10);

/// Answers the calls. Cloned handles share everything.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Allots numbers.
    pub(crate) writer: Writer,
    /// What is followed.
    pub(crate) feed: Arc<Feed>,
    /// Who follows.
    pub(crate) frontends: Frontends,
    /// What they learn.
    pub(crate) states: SelectionStates,
    /// Key of the containers' registration tokens.
    pub(crate) container_key: Secret,
}

impl Follow {
    /// Answers one call of a frontend that was reached from `caller`.
    ///
    /// # Errors
    /// If management is shutting down or cannot store the number of a new frontend.
    pub async fn follow(
        &self,
        request: FollowRequest,
        caller: IpAddr,
    ) -> Result<FollowResponse, FollowError> {
        let number = self.number(request.frontend, request.number).await?;
        let mut published = self.feed.watch();
        let mut frontends_changed = self.frontends.watch();
        let _waiting = self.frontends.present(Presentation {
            frontend: request.frontend,
            number,
            query_address: completed(&request.query_address, caller),
            rpc_address: completed(&request.rpc_address, caller),
            caller,
            applied: request.applied.filter(|it| it.store == self.feed.store()).map(|it| it.revision),
            containers: request.containers,
        });
        let deadline = Instant::now() + POLL_TIME;
        loop {
            if self.frontends.is_closed() {
                return Err(FollowError("it is shutting down".into()));
            }
            let (position, update) = self.feed.since(request.applied);
            let frontends = self.frontends.rpc_addresses();
            let is_news = request.applied != Some(position) || frontends != request.known_frontends;
            if is_news || Instant::now() >= deadline {
                let container_key = Some(self.container_key.clone());
                return Ok(FollowResponse { number, position, update, frontends, container_key });
            }
            tokio::select! {
                () = published.published() => {}
                () = frontends_changed.changed() => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// The number of a frontend: what it has, unless that is taken; a new one is stored before it is given.
    async fn number(&self, frontend: Uuid, claimed: Option<u64>) -> Result<u64, FollowError> {
        let claimed = claimed
            .filter(|number| !self.frontends.is_number_of_another(*number, frontend))
            .or_else(|| self.frontends.number_of(frontend));
        let next = self.feed.catalog().next_frontend_number;
        match claimed {
            Some(number) if number < next => Ok(number),
            _ => self
                .writer
                .edit(move |catalog| Ok(allot(catalog, claimed)))
                .await
                .map(|committed| committed.value)
                .map_err(|error| FollowError(error.to_string())),
        }
    }
}

/// The number that was claimed, which a store that was lost may have given, or the next; and the edit that
/// keeps it from being given again.
fn allot(catalog: &Catalog, claimed: Option<u64>) -> (u64, Edit) {
    let number = claimed.unwrap_or(catalog.next_frontend_number);
    let next = catalog.next_frontend_number.max(number.saturating_add(1));
    (number, Edit { next_frontend_number: Some(next), ..Edit::default() })
}

/// An address with its host filled in, if that only says "any of mine".
fn completed(address: &str, caller: IpAddr) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => {
            std::net::SocketAddr::new(caller, port.parse().unwrap_or(0)).to_string()
        }
        _ => address.to_owned(),
    }
}

impl Management for Follow {
    fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
        Follow::follow(self, request, Ipv4Addr::LOCALHOST.into()).boxed()
    }

    fn exchange(&self, request: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, FollowError>> {
        async move { self.states.exchange(request).await.map_err(|error| FollowError(error.to_string())) }
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::catalog::Update;

    use super::*;
    use crate::applications::{self, tests::app};

    async fn service(directory: &tempfile::TempDir) -> Follow {
        let (writer, feed) = Writer::open(directory.path().into()).await.unwrap();
        let states = SelectionStates::open(directory.path().into(), feed.clone()).await.unwrap();
        let container_key = Secret::random();
        Follow { writer, feed, frontends: Frontends::default(), states, container_key }
    }

    fn request(frontend: u128) -> FollowRequest {
        FollowRequest {
            frontend: Uuid::from_u128(frontend),
            number: None,
            query_address: "0.0.0.0:1337".into(),
            rpc_address: format!("0.0.0.0:{}", 7000 + frontend),
            applied: None,
            known_frontends: Vec::new(),
            containers: Vec::new(),
        }
    }

    /// The call that a frontend makes once it has applied an answer.
    fn next(mut request: FollowRequest, answer: &FollowResponse) -> FollowRequest {
        request.number = Some(answer.number);
        request.applied = Some(answer.position);
        request.known_frontends.clone_from(&answer.frontends);
        request
    }

    async fn call(service: &Follow, request: &FollowRequest) -> FollowResponse {
        Management::follow(service, request.clone()).await.unwrap()
    }

    #[tokio::test]
    async fn a_new_frontend_gets_a_snapshot_a_number_and_its_own_address() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let first = call(&service, &request(1)).await;
        assert!(matches!(first.update, Update::Snapshot { .. }));
        assert_eq!(first.frontends, ["127.0.0.1:7001"]);
        let second = call(&service, &request(2)).await;
        assert_ne!(first.number, second.number);
        assert_eq!(second.frontends, ["127.0.0.1:7001", "127.0.0.1:7002"]);
    }

    #[tokio::test]
    async fn a_waiting_frontend_hears_of_a_change_and_its_next_call_settles_it() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let follower = service.clone();
        let following = tokio::spawn(async move {
            let mut request = request(1);
            loop {
                let answer = call(&follower, &request).await;
                request = next(request, &answer);
            }
        });
        while service.frontends.count() == 0 {
            tokio::task::yield_now().await;
        }
        for name in ["a", "b", "c"] {
            let committed = service
                .writer
                .edit(move |catalog| Ok(((), applications::add(catalog, app(name, &[]))?)))
                .await
                .unwrap();
            let began = Instant::now();
            service.frontends.settled(committed.revision).await;
            assert!(began.elapsed() < Duration::from_millis(500));
        }
        following.abort();
    }

    #[tokio::test]
    async fn a_waiting_frontend_hears_of_another_frontend() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let answer = call(&service, &request(1)).await;
        let request_again = next(request(1), &answer);
        let another = request(2);
        let (answer, _) = tokio::join!(call(&service, &request_again), call(&service, &another));
        assert_eq!(answer.frontends.len(), 2);
        assert_eq!(answer.update, Update::Changes { changes: vec![] });
    }

    #[tokio::test]
    async fn a_number_is_kept_across_a_restart_and_never_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let before = service(&directory).await;
        let first = call(&before, &request(1)).await;
        before.states.close().await.unwrap();
        before.writer.close().await.unwrap();
        let after = service(&directory).await;
        let other = call(&after, &request(2)).await;
        let again = call(&after, &next(request(1), &first)).await;
        assert_eq!(again.number, first.number);
        assert_ne!(other.number, first.number);
    }

    #[tokio::test]
    async fn a_number_of_a_lost_store_is_kept_unless_it_was_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let claimed = |frontend, number| FollowRequest { number: Some(number), ..request(frontend) };
        assert_eq!(call(&service, &claimed(1, 5)).await.number, 5);
        assert_eq!(call(&service, &request(2)).await.number, 6);
        assert_eq!(call(&service, &claimed(3, 5)).await.number, 7);
    }

    #[tokio::test]
    async fn closing_ends_a_call_that_waits() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let answer = call(&service, &request(1)).await;
        let waiting = Management::follow(&service, next(request(1), &answer));
        let (ended, ()) = tokio::join!(waiting, async { service.frontends.close() });
        assert!(ended.unwrap_err().to_string().contains("shutting down"));
    }
}
