//! SIGTERM and Ctrl-C ask for an orderly end; a second one, or an end that takes too long, ends the process at once.
//!
//! Invariant: nothing that another thread of the process waits for keeps it from ending.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::exit;
use tokio::sync::watch;
use tracing::{error, info, warn};

/// What a process killed by an interrupt is expected to exit with.
const INTERRUPTED: i32 = 130;
/// The exit status of a process that did not end in time.
const NOT_IN_TIME: i32 = 1;
/// Time for the last line of the log to be written.
const LAST_LINE: Duration = Duration::from_secs(1);

/// Resolves once an orderly end has been asked for. Cheap to clone.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Begins to listen for signals, on a thread of its own. The process ends `limit` after the first one, if there is a
    /// limit.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub fn on_signals(limit: Option<Duration>) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let is_asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Of two signals the second one finds the flag set. It ends the process in its handler.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&is_asked))?;
            flag::register(signal, Arc::clone(&is_asked))?;
        }
        let (asked, shutdown) = watch::channel(false);
        let listen = move || {
            if signals.forever().next().is_none() {
                return;
            }
            if let Some(limit) = limit
                && let Err(error) = end_within(limit)
            {
                warn!(%error, "shutdown has no limit");
            }
            asked.send_replace(true);
            info!("stopping; a second signal stops at once");
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(Self(shutdown))
    }

    /// Waits until an orderly end is asked for.
    pub async fn asked(mut self) {
        // Fails only if nobody listens for signals any more, which is the end as well.
        let _ = self.0.wait_for(|&asked| asked).await;
    }
}

/// Ends the process after `limit`, unless it has ended by then.
///
/// # Errors
/// If there can be no thread that waits for that.
pub fn end_within(limit: Duration) -> std::io::Result<()> {
    let end = move || {
        thread::sleep(limit);
        let (written, is_written) = mpsc::channel();
        // The log may be what the process waits for.
        thread::spawn(move || {
            error!(?limit, "shutdown takes too long: the process ends with what is not finished");
            let _ = written.send(());
        });
        let _ = is_written.recv_timeout(LAST_LINE);
        exit(NOT_IN_TIME);
    };
    thread::Builder::new().name("shutdown-limit".to_owned()).spawn(end).map(drop)
}
