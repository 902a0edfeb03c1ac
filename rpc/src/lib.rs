//! Everything that crosses a process boundary of Clipper: a leaf that knows neither HTTP nor storage.
//!
//! # Layout
//! - [`names`]: validated names of applications, models and versions.
//! - [`input`] and [`output`]: what models are asked, and what they answer; [`number`]: an element of either.
//! - [`message`] and [`codec`]: the container protocol (`docs/protocol.md`) as types, and as frames.
//! - [`router`]: the frontend's end, one task around a ROUTER socket; `router_socket`, the socket with what only our
//!   build of libzmq can do (`libzmq/`); `peers`, its connections and which of them are strangers.
//! - [`session`]: the container's end, a DEALER socket that registers, reconnects and keeps alive.
//! - `endpoint`: where a frontend is reached, from afar and on its own host.
//! - `multipart`: a message's frames off a socket.
//! - [`excerpt`]: what may be repeated of what others said; [`printable`]: text of others that is
//!   safe to print.
//! - [`catalog`]: what management stores and every frontend follows.
//! - [`secret`]: tokens of operators, frontends and containers.
//! - [`selection`]: how applications select among models, and what is learned of them.

pub mod catalog;
pub mod codec;
mod endpoint;
pub mod excerpt;
pub mod input;
pub mod message;
mod multipart;
pub mod names;
pub mod number;
pub mod output;
mod peers;
pub mod printable;
pub mod protocol;
pub mod router;
mod router_socket;
pub mod secret;
pub mod selection;
pub mod session;
