//! Disk that uploads take while they arrive.

use std::sync::PoisonError;

use super::{ArtifactError, Artifacts};

/// Room of one upload in progress. Given back when it is dropped.
#[derive(Debug)]
pub struct UploadRoom {
    artifacts: Artifacts,
    taken: u64,
}

impl Artifacts {
    /// Room for an upload that begins.
    pub fn upload_room(&self) -> UploadRoom {
        UploadRoom { artifacts: self.clone(), taken: 0 }
    }

    /// The bytes of uploads in progress, and of those that no deployment names yet.
    pub(super) fn uploads_taken(&self) -> u64 {
        let arriving = *self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving + self.awaited_bytes()
    }
}

impl UploadRoom {
    /// Takes room for an upload of `length` bytes so far.
    ///
    /// # Errors
    /// If all uploads that no deployment names would take more than is allowed.
    pub fn grow(&mut self, length: u64) -> Result<(), ArtifactError> {
        if length <= self.taken {
            return Ok(());
        }
        let more = length - self.taken;
        let mut arriving = self.artifacts.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = *arriving + self.artifacts.awaited_bytes();
        let uploads_bytes = self.artifacts.bounds.uploads_bytes;
        if taken + more > uploads_bytes {
            return Err(ArtifactError::UploadsFull { uploads_bytes, taken });
        }
        *arriving += more;
        self.taken += more;
        Ok(())
    }
}

impl Drop for UploadRoom {
    fn drop(&mut self) {
        *self.artifacts.arriving.lock().unwrap_or_else(PoisonError::into_inner) -= self.taken;
    }
}
