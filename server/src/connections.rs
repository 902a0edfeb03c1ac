//! The HTTP connections that are open.
//!
//! Invariant: each is counted from when it is accepted until actix-web drops what it keeps with it, whatever ended it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::dev::Extensions;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::families::Families;

/// Counts the connections of one server; clones count the same ones.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<AtomicU64>);

/// One connection.
struct Open(Connections);

impl Connections {
    /// Counts a connection for as long as its data lives: call it from `HttpServer::on_connect`.
    pub fn count(&self, data: &mut Extensions) {
        self.0.fetch_add(1, Ordering::Relaxed);
        data.insert(Open(self.clone()));
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Collector for Connections {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        Families::new(encoder).lone_gauge(
            "clipper_http_connections",
            "Open connections of HTTP clients to this server",
            None,
            self.open(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_until_its_data_goes() {
        let connections = Connections::default();
        let (mut first, mut second) = (Extensions::new(), Extensions::new());
        connections.count(&mut first);
        connections.count(&mut second);
        assert_eq!(connections.open(), 2);
        drop(first);
        assert_eq!(connections.open(), 1);
    }
}
