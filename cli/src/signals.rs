//! SIGTERM and Ctrl-C ask for an orderly end; a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// What a process killed by an interrupt is expected to exit with.
const INTERRUPTED: i32 = 130;

/// Resolves once an orderly end has been asked for. Cheap to clone.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Begins to listen for signals. Must run in an actix system.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (asked, shutdown) = watch::channel(false);
        actix_rt::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if asked.send_replace(true) {
                    warn!("stopping at once");
                    std::process::exit(INTERRUPTED);
                }
                info!("stopping; a second signal stops at once");
            }
        });
        Ok(Self(shutdown))
    }

    /// Waits until an orderly end is asked for.
    pub async fn asked(mut self) {
        // Fails only if nobody listens for signals any more, which is the end as well.
        let _ = self.0.wait_for(|&asked| asked).await;
    }
}
