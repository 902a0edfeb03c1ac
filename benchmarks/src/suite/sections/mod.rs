//! The measurements, in the order of the report.

mod apps;
mod bare;
mod batching;
mod cache;
mod connections;
mod growth;
mod idle;
mod overload;
mod payload;
mod replicas;
mod selection;
mod soak;
mod stragglers;

use crate::section::Section;

/// Measures what one part of the report is about.
type Measure = fn(&mut Section) -> anyhow::Result<()>;

/// The one that is only measured when it is asked for.
pub const SOAK: &str = "soak";

/// All of them.
pub const ALL: [(&str, Measure); 12] = [
    ("bare", bare::measure),
    ("batching", batching::measure),
    ("cache", cache::measure),
    ("stragglers", stragglers::measure),
    ("overload", overload::measure),
    ("apps", apps::measure),
    ("replicas", replicas::measure),
    ("connections", connections::measure),
    ("payload", payload::measure),
    ("idle", idle::measure),
    ("selection", selection::measure),
    (SOAK, soak::measure),
];

/// What the report calls a part.
pub fn title(name: &str) -> &str {
    match name {
        "bare" => "Against a bare web server",
        "batching" => "Batching strategies",
        "cache" => "The cache",
        "stragglers" => "A replica that stalls",
        "overload" => "Overload",
        "apps" => "1 to 1,000 applications",
        "replicas" => "1 to 64 replicas",
        "connections" => "1 to 4,096 connections",
        "payload" => "64 bytes to 4 MB",
        "idle" => "At rest",
        "selection" => "Selection among models",
        SOAK => "Load and redeployments for long",
        name => name,
    }
}
