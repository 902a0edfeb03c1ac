//! Management as frontends see it, the same in one process and over HTTP; above all the long poll by which they
//! follow the catalog.
//!
//! A call says all about the frontend and where it stands. It is answered at once if the catalog or the list of
//! frontends is not what the frontend knows, and otherwise when one of them changes, or after [`POLL_TIME`]
//! with no news. Invariant: a frontend that applies each answer and calls again misses no change, whatever
//! calls and answers are lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::{ExchangeError, FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::secret::Secret;
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::catalog::Edit;
use crate::error::EditError;
use crate::feed::Feed;
use crate::frontend_numbers::NUMBERS;
use crate::frontends::{Crowded, Frontends, HeldNumber, Presentation};
use crate::refusal::Refusal;
use crate::selection_state::{SelectionStates, StateError};
use crate::writer::Writer;

/// How long a call waits for news.
const POLL_TIME: Duration = Duration::from_secs(10);
/// The longest address of a frontend, in bytes: a host name of 253, and a port.
pub(crate) const MAX_ADDRESS_BYTES: usize = 260;
/// The most containers in a report.
pub(crate) const MAX_CONTAINERS: usize = 10_000;
/// The longest name of a container's process, in bytes.
pub(crate) const MAX_INSTANCE_BYTES: usize = 256;

/// Why a call of a frontend is not answered.
#[derive(Debug, thiserror::Error)]
pub enum FollowRefusal {
    /// It says what cannot be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Management cannot answer now.
    #[error(transparent)]
    Unavailable(#[from] FollowError),
}

impl From<Crowded> for FollowRefusal {
    fn from(crowded: Crowded) -> Self {
        Self::Unavailable(FollowError(crowded.to_string()))
    }
}

impl From<EditError> for FollowRefusal {
    fn from(error: EditError) -> Self {
        Self::Unavailable(FollowError(error.to_string()))
    }
}

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
    /// If the frontend says what cannot be, there are too many frontends, management is shutting down, or it cannot
    /// store the number of a new frontend.
    pub async fn follow(
        &self,
        request: FollowRequest,
        caller: IpAddr,
    ) -> Result<FollowResponse, FollowRefusal> {
        check(&request)?;
        let rpc_address = completed(&request.rpc_address, caller);
        // Before a number is stored for it.
        self.frontends.admits(request.frontend, &rpc_address)?;
        let held = self.number(request.frontend, request.number).await?;
        let number = held.number;
        let mut published = self.feed.watch();
        let mut frontends_changed = self.frontends.watch();
        let _waiting = self.frontends.present(Presentation {
            frontend: request.frontend,
            number,
            query_address: completed(&request.query_address, caller),
            rpc_address,
            caller,
            applied: request.applied.filter(|it| it.run == self.feed.run()).map(|it| it.revision),
            containers: request.containers,
        })?;
        let deadline = Instant::now() + POLL_TIME;
        loop {
            if self.frontends.is_closed() {
                return Err(FollowError("it is shutting down".into()).into());
            }
            let (position, update) = self.feed.since(request.applied);
            let frontends = self.frontends.rpc_addresses();
            let is_news = request.applied != Some(position) || *frontends != *request.known_frontends;
            if is_news || Instant::now() >= deadline {
                let (frontends, container_key) = (frontends.to_vec(), Some(self.container_key.clone()));
                return Ok(FollowResponse { number, position, update, frontends, container_key });
            }
            tokio::select! {
                () = published.published() => {}
                () = frontends_changed.changed() => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// The number of a frontend: the one that it has, unless that is taken; or another, which is stored before it is
    /// given.
    async fn number(&self, frontend: Uuid, claimed: Option<u64>) -> Result<HeldNumber, FollowRefusal> {
        if let Some(held) = self.frontends.claim_number(frontend, claimed) {
            return Ok(held);
        }
        let first = self.feed.catalog().next_frontend_number;
        let held = self.frontends.allot_number(frontend, first).ok_or(Crowded::Frontends)?;
        let edit = Edit { next_frontend_number: Some((held.number + 1) % NUMBERS), ..Edit::default() };
        self.writer.edit(move |_| Ok(((), edit))).await?;
        Ok(held)
    }
}

/// What must hold of a call by itself.
fn check(request: &FollowRequest) -> Result<(), Refusal> {
    for (field, address) in [("query_address", &request.query_address), ("rpc_address", &request.rpc_address)]
    {
        if address.len() > MAX_ADDRESS_BYTES || !is_address(address) {
            let found = excerpt(address).into_owned();
            return Err(Refusal::FrontendAddress { field, found, most: MAX_ADDRESS_BYTES });
        }
    }
    let found = request.containers.len();
    if found > MAX_CONTAINERS {
        return Err(Refusal::TooManyContainers { found, most: MAX_CONTAINERS });
    }
    let mut instances = request.containers.iter().filter_map(|container| container.instance.as_ref());
    match instances.find(|instance| instance.len() > MAX_INSTANCE_BYTES) {
        Some(instance) => {
            let found = instance.len();
            Err(Refusal::LongInstance {
                beginning: excerpt(instance).into_owned(),
                found,
                most: MAX_INSTANCE_BYTES,
            })
        }
        None => Ok(()),
    }
}

/// Whether a text is `host:port`, with an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    is_host
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
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
        async move {
            Follow::follow(self, request, Ipv4Addr::LOCALHOST.into()).await.map_err(|refusal| match refusal {
                FollowRefusal::Unavailable(error) => error,
                FollowRefusal::Refused(refusal) => FollowError(refusal.to_string()),
            })
        }
        .boxed()
    }

    fn exchange(&self, request: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
        let failed = |error: StateError| match error {
            StateError::Over { .. } | StateError::TooManyStates { .. } => {
                ExchangeError::Refused(error.to_string())
            }
            StateError::Failed(_) | StateError::Crowded { .. } | StateError::Closed => {
                ExchangeError::Failed(error.to_string())
            }
        };
        async move { self.states.exchange(request).await.map_err(failed) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::catalog::{ConnectedContainer, Update};
    use clipper_rpc::input::InputType;
    use clipper_server::Essentials;

    use super::*;
    use crate::applications::{self, tests::app};
    use crate::frontends::MAX_FRONTENDS;
    use crate::models::tests::model_id;

    async fn service(directory: &tempfile::TempDir) -> Follow {
        let part = |name| Essentials::default().part(name);
        let directory = directory.path().to_owned();
        let (writer, feed) = Writer::open(directory.clone(), part("the writer")).await.unwrap();
        let states = SelectionStates::open(directory, feed.clone(), 1000, part("the states")).await.unwrap();
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
        assert_eq!(call(&service, &request(2)).await.number, 0);
        assert_eq!(call(&service, &claimed(3, 5)).await.number, 1);
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

    #[tokio::test]
    async fn a_number_that_there_is_not_is_not_given() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let claimed = |frontend, number| FollowRequest { number: Some(number), ..request(frontend) };
        assert_eq!(call(&service, &claimed(1, u64::MAX)).await.number, 0);
        assert_eq!(call(&service, &claimed(2, NUMBERS)).await.number, 1);
        assert_eq!(call(&service, &claimed(3, NUMBERS - 1)).await.number, NUMBERS - 1);
        assert_eq!(call(&service, &request(4)).await.number, 2);
    }

    #[tokio::test]
    async fn a_frontend_that_says_what_cannot_be_is_refused_and_told_what_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        let refused = async |request: FollowRequest| {
            Management::follow(&service, request).await.unwrap_err().to_string()
        };
        let long = format!("{}:7000", "h".repeat(300));
        for address in
            ["", "host", "host:", "host:0", "host:70000", "host:+1", ":7000", "::1:7000", "a b:1", &long]
        {
            let error = refused(FollowRequest { rpc_address: address.into(), ..request(1) }).await;
            let rule =
                "rpc_address must be host:port with a port from 1 to 65535 and of at most 260 bytes; it is";
            assert!(error.contains(rule) && error.len() < 700, "{error}");
            let error = refused(FollowRequest { query_address: address.into(), ..request(1) }).await;
            assert!(error.contains("query_address must be"), "{error}");
        }
        let container = |instance: &str| ConnectedContainer {
            model: model_id("m", "1"),
            replica: 0,
            instance: Some(instance.into()),
            input_type: InputType::Doubles,
            batch_size: 1,
        };
        let containers = vec![container("a"); MAX_CONTAINERS + 1];
        let error = refused(FollowRequest { containers, ..request(1) }).await;
        assert!(error.ends_with("A frontend reports 10001 containers; at most 10000 are allowed"), "{error}");
        let containers = vec![container(&"i".repeat(257))];
        let error = refused(FollowRequest { containers, ..request(1) }).await;
        assert!(error.ends_with("has 257 bytes; at most 256 are allowed"), "{error}");
        assert_eq!(service.frontends.count(), 0);
        for address in
            ["host:7000", "model_server.example-1.com:1", "[::1]:65535", "[::]:7000", "10.0.0.1:7000"]
        {
            let request = FollowRequest { rpc_address: address.into(), ..request(1) };
            assert!(Management::follow(&service, request).await.is_ok(), "{address}");
        }
    }

    #[tokio::test]
    async fn a_frontend_that_finds_no_room_is_given_no_number() {
        let directory = tempfile::tempdir().unwrap();
        let service = service(&directory).await;
        for frontend in 0..MAX_FRONTENDS as u128 {
            call(&service, &request(frontend)).await;
        }
        let next = service.feed.catalog().next_frontend_number;
        let error = Management::follow(&service, request(9999)).await.unwrap_err().to_string();
        assert!(
            error.ends_with("256 frontends follow already, which is the most that are allowed"),
            "{error}"
        );
        assert_eq!(service.feed.catalog().next_frontend_number, next);
    }
}
