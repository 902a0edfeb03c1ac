//! Replicas: the containers that serve models.
//!
//! - [`reception`]: where containers register. `tokens`: the check of their tokens. `strangers`: the
//!   addresses of peers, and what they and the log were told.
//! - [`served`]: the versions that containers can register for.
//! - [`model`]: the actor of a version of a model. [`slots`]: the slots of its containers. `numbers`: the
//!   numbers of its replicas.
//! - [`connection`]: the actor of one connected container.

pub mod connection;
pub mod model;
mod numbers;
pub mod reception;
pub mod served;
pub mod slots;
pub mod strangers;
pub mod tokens;
