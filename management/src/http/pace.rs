//! The time that a request's body may take to arrive.
//!
//! Invariant: a body keeps a connection, and what was read of it, for a time that is bounded by its length.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;

/// The slowest pace at which a body may arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The time for the beginning.
    pub(super) grace: Duration,
    /// The longest time without a byte.
    pub(super) idle: Duration,
    /// The bytes for which there is one more second.
    pub(super) bytes_per_second: u64,
}

/// A body that must keep up with its pace.
pub(super) struct Paced<S = Payload> {
    payload: S,
    pace: Pace,
    began: Instant,
    received: u64,
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Paced<S> {
    pub(super) fn new(payload: S, pace: Pace) -> Self {
        Self { payload, pace, began: Instant::now(), received: 0 }
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// If the body breaks off, or is too slow.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Pace { grace, idle, bytes_per_second } = self.pace;
        let due = self.began + grace + Duration::from_secs(self.received / bytes_per_second);
        let Ok(chunk) = timeout_at(due.min(Instant::now() + idle), self.payload.next()).await else {
            let (received, idle) = (self.received, idle.as_secs());
            return Err(ApiError::TooSlow { received, idle, bytes_per_second });
        };
        let chunk = chunk.transpose().map_err(|error| ApiError::Incomplete { what: error.to_string() })?;
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const PACE: Pace =
        Pace { grace: Duration::from_secs(10), idle: Duration::from_secs(5), bytes_per_second: 100 };

    /// A body that sends so many bytes again and again, after a pause each time. Returns what arrives in all.
    async fn arrived(times: usize, bytes: usize, pause: Duration) -> Result<u64, ApiError> {
        let chunks = stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, PayloadError>(Bytes::from(vec![0; bytes]))
        });
        let mut paced = Paced::new(Box::pin(chunks), PACE);
        while paced.next().await?.is_some() {}
        Ok(paced.received)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_long_if_it_keeps_up() {
        assert_eq!(arrived(100, 200, Duration::from_secs(2)).await.unwrap(), 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_byte_by_byte_ends_with_its_grace() {
        let began = Instant::now();
        let error = arrived(1000, 1, Duration::from_millis(1100)).await.unwrap_err().to_string();
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(
            error,
            "The body is too slow: 9 bytes came; expected 100 bytes a second and no pause of 5 s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_ends_however_much_came_before() {
        let began = Instant::now();
        assert!(arrived(2, 1_000_000, Duration::from_secs(4)).await.is_ok());
        assert!(arrived(2, 1_000_000, Duration::from_secs(6)).await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(8 + 5));
    }
}
