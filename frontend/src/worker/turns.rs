//! Turns of long requests.

/// Queries of one request that are handled before other requests have their turn: well below a
/// millisecond of work.
const TURN: u32 = 128;

/// Counts the queries that one request has handled.
#[derive(Default)]
pub struct Turns(u32);

impl Turns {
    /// Counts a query; true if other requests should have their turn before it.
    pub fn are_over(&mut self) -> bool {
        self.0 += 1;
        self.0.is_multiple_of(TURN)
    }

    /// Counts a query, and lets other requests have their turn if it is time.
    pub async fn next(&mut self) {
        if self.are_over() {
            tokio::task::yield_now().await;
        }
    }
}
