//! Reception of containers: for each message from the router, it finds the actor of the connection.
//! Runs on the thread of those actors.
//!
//! Invariant: a peer is known here from its accepted `register` until it is lost or its actor has ended; whoever is not
//! known is answered `unknown`, so that it registers again, once however many messages it had sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix::prelude::*;
use clipper_rpc::catalog::ConnectedContainer;
use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::message::{Introduction, PROTOCOL_VERSION, Register, ToContainer};
use clipper_rpc::names::{ModelId, ModelName, ModelVersion, NameError};
use clipper_rpc::router::{Loss, PeerId, RouterHandle, Standing};
use tracing::{debug, info, warn};

use super::connection::{ContainerConnection, Lost, Received, Remote, Timeouts};
use super::model::ModelHandle;
use super::served::ServedModels;
use super::strangers::Strangers;
use super::tokens::{ContainerTokens, TokenRefusal};

/// How soon a container may ask again, where the frontend may not have heard of its version yet.
const RETRY_UNKNOWN_VERSION_MILLIS: u64 = 500;

/// How soon a container may ask again at the address of a frontend that is shutting down: another
/// frontend may listen there by then.
const RETRY_STOPPING_MILLIS: u64 = 1000;

/// The longest text that a container may say of itself: it goes into logs and to management.
const MAX_DESCRIPTION_BYTES: usize = 256;

/// Turns messages of containers into messages of their connections' actors.
pub struct Reception {
    /// Sends the answers.
    pub router: RouterHandle,
    /// Versions that containers can register for.
    pub served: Arc<ServedModels>,
    /// What is agreed with containers.
    pub timeouts: Timeouts,
    /// Which registrations have a valid token.
    pub tokens: ContainerTokens,
    /// The connections that were accepted.
    pub connections: HashMap<PeerId, Addr<ContainerConnection>>,
    /// Where peers are, and what they and the log were told.
    pub strangers: Strangers,
    /// Set when the frontend begins to shut down: no container is accepted any more.
    pub stopping: Arc<AtomicBool>,
}

/// Why a container is turned away. Displayed to it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error("this frontend is shutting down")]
    Stopping,
    #[error("this frontend speaks protocol {PROTOCOL_VERSION}, the container {found}")]
    Protocol { found: u64 },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("'{field}' has {found} bytes; at most {MAX_DESCRIPTION_BYTES} are taken")]
    TooLong { field: &'static str, found: usize },
    #[error("version '{}' of model '{}' is not registered", .model.version, .model.name)]
    UnknownModel { model: ModelId },
    #[error("model '{model}' takes {expected}, the container {found}")]
    InputType { model: ModelId, expected: String, found: String },
}

impl Refusal {
    /// When the same registration may be accepted: once this frontend has heard of the version, or
    /// of the key of the registration tokens, or another frontend is in its place. `None` if never.
    fn retry_millis(&self, register: &Register) -> Option<u64> {
        match self {
            Self::Stopping => Some(RETRY_STOPPING_MILLIS),
            Self::UnknownModel { .. } => Some(RETRY_UNKNOWN_VERSION_MILLIS),
            Self::Token(TokenRefusal::Unfit | TokenRefusal::NoKey) => {
                register.token.is_some().then_some(RETRY_UNKNOWN_VERSION_MILLIS)
            }
            Self::Token(TokenRefusal::Missing)
            | Self::Protocol { .. }
            | Self::Name(_)
            | Self::TooLong { .. }
            | Self::InputType { .. } => None,
        }
    }
}

impl Reception {
    fn register(&mut self, peer: PeerId, register: &Register) {
        self.strangers.introduced(&peer);
        match self.admit(register) {
            Ok((model, mut container)) => {
                let own_limit = register.max_batch_size.unwrap_or(u32::MAX).max(1);
                let context = Context::<ContainerConnection>::new();
                let slot = model.slots.take(context.address().recipient(), &mut container, own_limit);
                let (router, served, known) = (self.router.clone(), Arc::clone(&self.served), peer.clone());
                let remote = Remote { address: self.strangers.address(&peer).to_owned(), peer };
                let connection =
                    ContainerConnection::new(remote, router, model, container, slot, self.timeouts, served);
                self.connections.insert(known, context.run(connection));
            }
            Err(refusal) => {
                let retry_millis = refusal.retry_millis(register);
                let reason = refusal.to_string();
                let (model, version) = (excerpt(&register.model), excerpt(&register.version));
                let line = format!("{model}:{version}: {reason}");
                if self.strangers.log(&peer, &line, Instant::now()) {
                    let address = self.strangers.address(&peer);
                    match refusal {
                        Refusal::UnknownModel { .. } | Refusal::Stopping => {
                            info!(address, ?model, ?version, refusal = reason, "container refused for now");
                        }
                        _ => warn!(address, ?model, ?version, refusal = reason, "container turned away"),
                    }
                }
                self.router.send(&peer, &ToContainer::Rejected { reason, retry_millis });
            }
        }
    }

    fn admit(&self, register: &Register) -> Result<(ModelHandle, ConnectedContainer), Refusal> {
        self.tokens.check(register, &self.served)?;
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        if register.protocol != PROTOCOL_VERSION {
            return Err(Refusal::Protocol { found: register.protocol });
        }
        for (field, text) in [("instance", &register.instance), ("sdk", &register.sdk)] {
            let found = text.as_ref().map_or(0, String::len);
            if found > MAX_DESCRIPTION_BYTES {
                return Err(Refusal::TooLong { field, found });
            }
        }
        let name: ModelName = register.model.parse()?;
        let version: ModelVersion = register.version.parse()?;
        let model = ModelId { name, version };
        let Some(handle) = self.served.versions.load().get(&model).cloned() else {
            return Err(Refusal::UnknownModel { model });
        };
        if handle.queue.input_type() != register.input_type {
            let (expected, found) = (handle.queue.input_type().to_string(), register.input_type.to_string());
            return Err(Refusal::InputType { model, expected, found });
        }
        let container = ConnectedContainer {
            model,
            replica: register.replica.unwrap_or(0),
            instance: register.instance.clone(),
            input_type: register.input_type,
            // Set with its slot.
            batch_size: 0,
        };
        Ok((handle, container))
    }
}

impl Reception {
    /// Says in the log what a container of the original is, and what to do about it. It is not
    /// answered: it could not read the answer.
    fn recognise_original(&mut self, peer: &PeerId, model: Option<&str>) {
        if self.strangers.log(peer, &format!("protocol 3 {model:?}"), Instant::now()) {
            let address = self.strangers.address(peer);
            warn!(
                address,
                model,
                "a container of the original Clipper (protocol 3) has connected; this frontend speaks protocol \
                 {PROTOCOL_VERSION}: serve its model by the SDK in containers/python or containers/rust, or by \
                 docs/protocol.md"
            );
        }
    }

    fn refuse_malformed(&mut self, peer: &PeerId, error: &CodecError) {
        let reason = format!("malformed message: {error}");
        if self.strangers.log(peer, &reason, Instant::now()) {
            warn!(address = self.strangers.address(peer), %error, "malformed message of a peer that has not registered");
        }
        self.router.send(peer, &ToContainer::Rejected { reason, retry_millis: None });
    }
}

impl clipper_rpc::router::Reception for Reception {
    fn received(&mut self, peer: PeerId, message: Result<Frames, CodecError>) -> Standing {
        if let Some(connection) = self.connections.get(&peer).filter(|connection| connection.connected()) {
            connection.do_send(Received(message));
            return Standing::Registered;
        }
        match message.and_then(|frames| Introduction::decode(&frames)) {
            Ok(Introduction::Register(register)) => self.register(peer.clone(), &register),
            Ok(Introduction::Goodbye) => {}
            Ok(Introduction::Other) => {
                if self.strangers.tell_unknown(&peer, Instant::now()) {
                    self.router.send(&peer, &ToContainer::Unknown);
                }
            }
            Err(error @ CodecError::TooLong { .. }) => debug!(%peer, %error, "message of a stranger dropped"),
            Err(CodecError::Protocol3 { model }) => self.recognise_original(&peer, model.as_deref()),
            Err(error) => self.refuse_malformed(&peer, &error),
        }
        let registered = self.connections.get(&peer).is_some_and(Addr::connected);
        if registered { Standing::Registered } else { Standing::Stranger }
    }

    fn located(&mut self, peer: &PeerId, address: String) {
        self.strangers.located(peer, address);
    }

    fn lost(&mut self, peer: PeerId, loss: Loss) {
        self.strangers.lost(&peer);
        if let Some(connection) = self.connections.remove(&peer) {
            connection.do_send(Lost(loss));
        }
    }
}
