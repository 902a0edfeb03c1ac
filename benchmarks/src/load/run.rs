//! A run: its threads, and what they count together.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::load::Plan;
use crate::load::tally::Tally;
use crate::load::worker::{Second, Shared, Worker};
use crate::report::{Report, Series};

/// Descriptors that a process needs besides its connections.
const SPARE_DESCRIPTORS: u64 = 64;
/// How long the first connection may take, which tells whether there is a server.
const FIRST_CONNECT: Duration = Duration::from_secs(5);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no server.
    #[error("cannot connect to {address}: {problem}")]
    Unreachable {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        problem: io::Error,
    },
    /// The system allows fewer descriptors.
    #[error(
        "{connections} connections need {needed} descriptors, and this process may have {allowed} (ulimit -Hn)"
    )]
    Descriptors {
        /// How many connections were asked for.
        connections: usize,
        /// How many descriptors that takes.
        needed: u64,
        /// How many there may be.
        allowed: u64,
    },
    /// Events cannot be waited for.
    #[error("cannot wait for the network: {0}")]
    Poll(#[from] io::Error),
}

/// Who is told how a run goes on.
pub trait Observer {
    /// A second is over; `total` is all so far.
    fn second(&mut self, index: u64, total: &Tally);
}

impl<F: FnMut(u64, &Tally)> Observer for F {
    fn second(&mut self, index: u64, total: &Tally) {
        self(index, total);
    }
}

/// Runs a plan to its end, or until `stop` is true.
///
/// # Errors
/// If there is no server, or the system does not let this process have the connections.
pub fn run(plan: &Plan, stop: Arc<AtomicBool>, observer: &mut impl Observer) -> Result<Report, Error> {
    allow_descriptors(plan.connections)?;
    let address = plan.target.address;
    std::net::TcpStream::connect_timeout(&address, FIRST_CONNECT)
        .map_err(|problem| Error::Unreachable { address, problem })?;
    let shared = Shared { start: Barrier::new(plan.threads), stop };
    let (sender, seconds) = mpsc::channel();
    let mut total = Tally::default();
    let mut series = Series::new(plan.duration);
    let measured = thread::scope(|scope| {
        let mut threads = Vec::new();
        // Made before any runs, so that none waits at the barrier for one that cannot be.
        let workers = (0..plan.threads).map(|thread| Worker::new(plan, thread, &shared, sender.clone()));
        for worker in workers.collect::<io::Result<Vec<_>>>()? {
            threads.push(scope.spawn(|| worker.run()));
        }
        drop(sender);
        for Second { index, tally } in seconds {
            total.add(&tally);
            series.add(index, &tally);
            observer.second(index, &total);
        }
        let mut measured = Duration::ZERO;
        for thread in threads {
            let duration = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            measured = measured.max(duration);
        }
        Ok::<_, Error>(measured)
    })?;
    Ok(Report::new(plan, measured, &total, &series))
}

/// Raises the soft limit of descriptors as far as connections need it.
fn allow_descriptors(connections: usize) -> Result<(), Error> {
    let needed = connections as u64 + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|allowed| allowed >= needed) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .map_err(|_| Error::Descriptors { connections, needed, allowed: limit.maximum.unwrap_or(u64::MAX) })
}
