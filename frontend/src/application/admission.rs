//! The bound on an application's concurrent requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the requests of one application that are in progress at this frontend.
#[derive(Debug, Default)]
pub struct Admission {
    in_progress: AtomicU32,
}

/// Counts as one request as long as it lives.
pub struct Admitted(Arc<Admission>);

impl Admission {
    /// Admits a request, unless `limit` are in progress.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub fn admit(self: &Arc<Self>, limit: Option<u32>) -> Result<Admitted, u32> {
        // First counted, then compared: two that come at once cannot both take the last place.
        let before = self.in_progress.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(Arc::clone(self));
        match limit {
            Some(limit) if before >= limit => Err(limit),
            _ => Ok(admitted),
        }
    }

    /// The requests in progress.
    pub fn in_progress(&self) -> u32 {
        self.in_progress.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_its_request_has_ended() {
        let admission = Arc::new(Admission::default());
        let first = admission.admit(Some(1));
        assert!(first.is_ok());
        assert_eq!(admission.admit(Some(1)).err(), Some(1));
        drop(first);
        assert!(admission.admit(Some(1)).is_ok());
        assert_eq!(admission.in_progress(), 0);
    }
}
