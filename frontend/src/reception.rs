//! Where containers arrive: called by the router's task, it finds the actor of its connection for each message.
//!
//! Invariant: a peer is known here from its accepted `register` until it is lost or its actor has ended; whoever is not
//! known is answered `unknown`, so that it registers again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::prelude::*;
use clipper_rpc::catalog::ConnectedContainer;
use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::message::{Introduction, PROTOCOL_VERSION, Register, ToContainer};
use clipper_rpc::names::{ModelId, ModelName, ModelVersion, NameError};
use clipper_rpc::router::{Loss, PeerId, RouterHandle, Standing};
use tracing::{debug, warn};

use crate::container_connection::{ContainerConnection, Lost, Received, Terms};
use crate::container_tokens::{ContainerTokens, TokenRefusal};
use crate::directory::Directory;
use crate::model_queue::ModelHandle;

/// How soon a container may ask again, where the frontend may not have heard of its version yet.
const RETRY_UNKNOWN_VERSION_MILLIS: u64 = 500;

/// The longest text that a container may say of itself: it goes into logs and to management.
const MAX_DESCRIPTION_BYTES: usize = 256;

/// Turns messages of containers into messages of their connections' actors.
pub struct Reception {
    /// Where connections run.
    pub arbiter: ArbiterHandle,
    /// Sends the answers.
    pub router: RouterHandle,
    /// What is served.
    pub directory: Arc<Directory>,
    /// What is agreed with containers.
    pub terms: Terms,
    /// Which registrations have a valid token.
    pub tokens: ContainerTokens,
    /// The connections that were accepted.
    pub connections: HashMap<PeerId, Addr<ContainerConnection>>,
    /// The connections that were refused for good, and said so in the log: once is enough.
    pub turned_away: HashSet<PeerId>,
}

/// Why a container is turned away. Displayed to it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Token(#[from] TokenRefusal),
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
    /// Whether the same registration may be accepted later: once this frontend has heard of the
    /// version, or of the key of the registration tokens.
    fn may_pass(&self, register: &Register) -> bool {
        match self {
            Self::UnknownModel { .. } => true,
            Self::Token(TokenRefusal::Unfit | TokenRefusal::NoKey) => register.token.is_some(),
            Self::Token(TokenRefusal::Missing)
            | Self::Protocol { .. }
            | Self::Name(_)
            | Self::TooLong { .. }
            | Self::InputType { .. } => false,
        }
    }
}

impl Reception {
    fn register(&mut self, peer: PeerId, register: &Register) {
        match self.admit(register) {
            Ok((model, container)) => {
                let own_limit = register.max_batch_size.unwrap_or(u32::MAX).max(1);
                let (router, terms, known) = (self.router.clone(), self.terms, peer.clone());
                let directory = Arc::clone(&self.directory);
                let connection = ContainerConnection::start_in_arbiter(&self.arbiter, move |_| {
                    ContainerConnection::new(peer, router, model, container, own_limit, terms, directory)
                });
                self.connections.insert(known, connection);
            }
            Err(refusal) => {
                let retry_millis = refusal.may_pass(register).then_some(RETRY_UNKNOWN_VERSION_MILLIS);
                if !matches!(refusal, Refusal::UnknownModel { .. }) && self.turned_away.insert(peer.clone()) {
                    let (model, version) = (excerpt(&register.model), excerpt(&register.version));
                    warn!(%peer, ?model, ?version, %refusal, "container turned away");
                }
                self.router.send(&peer, &ToContainer::Rejected { reason: refusal.to_string(), retry_millis });
            }
        }
    }

    fn admit(&self, register: &Register) -> Result<(ModelHandle, ConnectedContainer), Refusal> {
        self.tokens.check(register, &self.directory)?;
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
        let Some(handle) = self.directory.models.load().get(&model).cloned() else {
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
            // Set with its seat.
            batch_size: 0,
        };
        Ok((handle, container))
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
            Ok(Introduction::Other) => self.router.send(&peer, &ToContainer::Unknown),
            Err(error @ CodecError::TooLong { .. }) => debug!(%peer, %error, "message of a stranger dropped"),
            Err(error) => {
                debug!(%peer, %error, "malformed message from a stranger");
                let reason = format!("malformed message: {error}");
                self.router.send(&peer, &ToContainer::Rejected { reason, retry_millis: None });
            }
        }
        let registered = self.connections.get(&peer).is_some_and(Addr::connected);
        if registered { Standing::Registered } else { Standing::Stranger }
    }

    fn lost(&mut self, peer: PeerId, loss: Loss) {
        self.turned_away.remove(&peer);
        if let Some(connection) = self.connections.remove(&peer) {
            connection.do_send(Lost(loss));
        }
    }
}
