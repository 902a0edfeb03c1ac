//! Artifacts that a deployment is expected to name.
//!
//! Invariant: an artifact that was uploaded less than [`GRACE`] ago, or that a deployment has asked for and not yet
//! named, is awaited.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ArtifactId;

/// The time that an upload waits for its deployment, and an artifact for somebody to name it after a start.
pub(super) const GRACE: Duration = Duration::from_secs(3600);

/// The end of a deployment's reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReservationEnd {
    /// The upload goes on waiting.
    Open,
    /// The deployment was refused: the upload that was for it waits no longer.
    Refused,
    /// A deployment names the artifact: no upload waits any longer.
    Named,
}

/// Artifacts that wait for deployments to name them.
#[derive(Debug, Default)]
pub(super) struct Awaited(HashMap<ArtifactId, Expectations>);

/// The deployments that may name an artifact.
#[derive(Debug, Default)]
struct Expectations {
    /// Uploads that no deployment has followed.
    uploads: u32,
    /// Time of the last upload.
    uploaded: Option<Instant>,
    /// Deployments that have asked for the artifact.
    reserved: u32,
}

impl Expectations {
    fn is_over(&self) -> bool {
        let is_old = self.uploaded.is_none_or(|uploaded| uploaded.elapsed() >= GRACE);
        self.reserved == 0 && (self.uploads == 0 || is_old)
    }
}

impl Awaited {
    /// Notes an upload.
    pub(super) fn upload(&mut self, id: &ArtifactId) {
        let expected = self.0.entry(id.clone()).or_default();
        expected.uploads += 1;
        expected.uploaded = Some(Instant::now());
    }

    /// Forgets an upload.
    pub(super) fn withdraw(&mut self, id: &ArtifactId) {
        if let Some(expected) = self.0.get_mut(id) {
            expected.uploads = expected.uploads.saturating_sub(1);
        }
    }

    /// Notes a deployment that asks for the artifact.
    pub(super) fn reserve(&mut self, id: &ArtifactId) {
        self.0.entry(id.clone()).or_default().reserved += 1;
    }

    /// Takes back a reservation, by how it ended.
    pub(super) fn release(&mut self, id: &ArtifactId, end: ReservationEnd) {
        if let Some(expected) = self.0.get_mut(id) {
            expected.reserved = expected.reserved.saturating_sub(1);
            expected.uploads = match end {
                ReservationEnd::Open => expected.uploads,
                ReservationEnd::Refused => expected.uploads.saturating_sub(1),
                ReservationEnd::Named => 0,
            };
        }
    }

    /// Forgets uploads that nobody deploys.
    pub(super) fn forget_old(&mut self) {
        self.0.retain(|_, expected| !expected.is_over());
    }

    /// Whether a deployment may still name an artifact.
    pub(super) fn contains(&self, id: &ArtifactId) -> bool {
        self.0.get(id).is_some_and(|expected| !expected.is_over())
    }

    /// The artifacts that were uploaded and not deployed.
    pub(super) fn uploads(&self) -> impl Iterator<Item = &ArtifactId> {
        self.0.iter().filter(|(_, expected)| expected.uploads > 0 && !expected.is_over()).map(|(id, _)| id)
    }
}
