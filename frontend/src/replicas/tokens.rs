//! The check of a container's token, which comes before everything else that is said to it.
//!
//! Called by the reception for each `register`. A frontend on loopback asks for no token: only
//! processes of its own host reach it. Invariant: a container whose token opens nothing is refused
//! in the same words whether or not the model exists, so a stranger learns nothing of the catalog.

use std::net::SocketAddr;

use clipper_rpc::message::Register;
use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;

use super::served::ServedModels;

/// Decides which registrations have a valid token.
#[derive(Debug)]
pub struct ContainerTokens {
    /// Whether a registration needs a token at all.
    required: bool,
    /// The token that opens every model, if the frontend was given one.
    shared: Option<Secret>,
}

/// A registration without a valid token. Displayed to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// The container has no token.
    #[error(
        "this frontend listens beyond loopback, so containers need a token: management gives one to each replica that \
         it starts, and others use that of the frontend's --container-token-file; set CLIPPER_TOKEN or \
         CLIPPER_TOKEN_FILE"
    )]
    Missing,
    /// The token is neither that of the model's version nor that of all containers.
    #[error(
        "the token does not open this version of this model: a version that was just registered opens in a moment, one \
         that was registered anew has another token, and containers that management did not start use that of the \
         frontend's --container-token-file"
    )]
    Unfit,
    /// Management hands out no key, so registration tokens cannot be checked.
    #[error(
        "this frontend cannot check registration tokens, as its management is older than they are: upgrade management \
         first, or give the frontend --container-token-file"
    )]
    NoKey,
}

impl ContainerTokens {
    /// The check of a frontend that listens for containers on `bound`. `shared` opens every model;
    /// an `insecure` frontend asks for no token wherever it listens.
    pub fn new(bound: SocketAddr, shared: Option<Secret>, insecure: bool) -> Self {
        Self { required: !insecure && !bound.ip().to_canonical().is_loopback(), shared }
    }

    /// Whether a registration needs a token.
    pub fn are_required(&self) -> bool {
        self.required
    }

    /// Checks the token of a registration.
    ///
    /// # Errors
    /// If a token is needed, and this is no valid one.
    pub fn check(&self, register: &Register, models: &ServedModels) -> Result<(), TokenRefusal> {
        if !self.required {
            return Ok(());
        }
        let key = models.container_key.load();
        let Some(given) = &register.token else {
            let no_token_fits = key.is_none() && self.shared.is_none();
            return Err(if no_token_fits { TokenRefusal::NoKey } else { TokenRefusal::Missing });
        };
        if self.shared.as_ref().is_some_and(|shared| shared.matches(given)) {
            return Ok(());
        }
        let Some(key) = &*key else { return Err(TokenRefusal::NoKey) };
        let (Ok(name), Ok(version)) = (register.model.parse(), register.version.parse()) else {
            return Err(TokenRefusal::Unfit);
        };
        let model = ModelId { name, version };
        let generation = models.versions.load().get(&model).map(|handle| handle.generation);
        // Also derived for an unknown model: the time that the answer takes tells no more than the
        // answer.
        let token = key.registration_token(&model, generation.unwrap_or_default());
        if token.matches(given) && generation.is_some() { Ok(()) } else { Err(TokenRefusal::Unfit) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use actix::Actor;
    use clipper_rpc::catalog::Batching;
    use clipper_rpc::input::InputType;
    use clipper_rpc::message::PROTOCOL_VERSION;
    use clipper_server::Essentials;

    use super::*;
    use crate::queue::{Capacity, Queue};
    use crate::replicas::model::{ModelHandle, ModelQueue};
    use crate::replicas::slots::{ContainerChanged, Sizing, Slots};

    const BEYOND: &str = "0.0.0.0:7000";

    struct Observer;

    impl Actor for Observer {
        type Context = actix::Context<Self>;
    }

    impl actix::Handler<ContainerChanged> for Observer {
        type Result = ();

        fn handle(&mut self, _: ContainerChanged, _: &mut Self::Context) {}
    }

    fn model(name: &str) -> ModelId {
        ModelId { name: name.parse().unwrap(), version: "1".parse().unwrap() }
    }

    /// Version 1 of model `m`, of a generation.
    fn served(key: Option<&Secret>, generation: u64) -> ServedModels {
        let served = ServedModels::default();
        served.container_key.store(key.cloned().map(Arc::new));
        let capacity = Capacity { queries: 1, bytes: 1 };
        let queue = Arc::new(Queue::new(1, model("m"), InputType::Doubles, capacity));
        let sizing = Sizing { batching: Batching::default(), batch_size: 1 };
        let slots = Arc::new(Slots::new(Arc::clone(&queue), sizing, Observer.start().recipient()));
        let part = Essentials::default().part("the actor of a model");
        let actor = ModelQueue::new(Arc::clone(&queue), Arc::clone(&slots), part).start();
        let handle = ModelHandle { queue, slots, actor, sizing, cache: true, generation };
        served.versions.store(Arc::new(HashMap::from([(model("m"), handle)])));
        served
    }

    fn register(name: &str, token: Option<&str>) -> Register {
        Register {
            protocol: PROTOCOL_VERSION,
            model: name.to_owned(),
            version: "1".to_owned(),
            input_type: InputType::Doubles,
            token: token.map(str::to_owned),
            max_batch_size: None,
            replica: None,
            sdk: None,
            instance: None,
        }
    }

    fn tokens(bound: &str, shared: Option<&Secret>) -> ContainerTokens {
        ContainerTokens::new(bound.parse().unwrap(), shared.cloned(), false)
    }

    #[actix::test]
    async fn beyond_loopback_the_token_of_exactly_this_version_and_generation_opens() {
        let key = Secret::random();
        let served = served(Some(&key), 7);
        let tokens = tokens(BEYOND, None);
        let check = |name: &str, token: &Secret| tokens.check(&register(name, Some(token.reveal())), &served);
        assert_eq!(check("m", &key.registration_token(&model("m"), 7)), Ok(()));
        for token in [
            key.registration_token(&model("m"), 6),
            key.registration_token(&model("n"), 7),
            Secret::random().registration_token(&model("m"), 7),
            key,
        ] {
            assert_eq!(check("m", &token), Err(TokenRefusal::Unfit));
        }
        assert_eq!(tokens.check(&register("m", None), &served), Err(TokenRefusal::Missing));
    }

    #[actix::test]
    async fn a_stranger_is_told_the_same_of_a_model_that_exists_and_of_one_that_does_not() {
        let key = Secret::random();
        let served = served(Some(&key), 0);
        let tokens = tokens(BEYOND, None);
        for token in [None, Some("0123456789abcdef"), Some(key.registration_token(&model("n"), 0).reveal())] {
            let of = |name| tokens.check(&register(name, token), &served).unwrap_err();
            assert_eq!(of("m"), of("n"), "{token:?}");
            assert_eq!(of("m"), of("not a name"), "{token:?}");
        }
    }

    #[actix::test]
    async fn the_shared_token_opens_every_model_also_where_management_hands_out_no_key() {
        let shared = Secret::random();
        let tokens = tokens(BEYOND, Some(&shared));
        for key in [None, Some(&Secret::random())] {
            let served = served(key, 1);
            for name in ["m", "unknown"] {
                assert_eq!(tokens.check(&register(name, Some(shared.reveal())), &served), Ok(()));
            }
        }
    }

    #[actix::test]
    async fn without_a_key_the_refusal_names_the_older_management() {
        let served = served(None, 1);
        for token in [None, Some("0123456789abcdef")] {
            let refused = tokens(BEYOND, None).check(&register("m", token), &served).unwrap_err();
            assert_eq!(refused, TokenRefusal::NoKey);
            assert!(refused.to_string().contains("upgrade management"), "{refused}");
        }
    }

    #[actix::test]
    async fn on_loopback_and_where_told_so_no_token_is_asked_for_and_one_that_is_given_is_ignored() {
        let served = served(Some(&Secret::random()), 1);
        let insecure = ContainerTokens::new(BEYOND.parse().unwrap(), None, true);
        let of = |bound| tokens(bound, None);
        for tokens in
            [insecure, of("127.0.0.1:1"), of("127.8.0.9:1"), of("[::1]:1"), of("[::ffff:127.0.0.1]:1")]
        {
            for token in [None, Some("short")] {
                assert_eq!(tokens.check(&register("m", token), &served), Ok(()), "{tokens:?}");
            }
        }
        for bound in [BEYOND, "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            let refused = of(bound).check(&register("m", None), &served);
            assert_eq!(refused, Err(TokenRefusal::Missing), "{bound}");
        }
    }
}
