//! The decision log: what is decided and learned, as JSON lines, one directory for each application that asks for it.
//!
//! Requests and actors hand over entries and never wait: a thread of its own writes them, and what it cannot keep up with is
//! dropped and counted. Invariant: a state that a decision in a file was made by can be rebuilt from that file, dropped entries
//! or not: a change is written only where the file has the state before it, and a state is written in full where a decision
//! needs it and the file does not have it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Affine, Change, Selection, Uid};
use clipper_selection::learner::availability::Outcomes;
use clipper_selection::learner::{Asked, Choice, Learner};
use clipper_selection::log::Record;
use clipper_server::EssentialPart;
use clipper_server::private_directory::Contents;
use tracing::warn;

use super::decisions::{Decided, LARGEST_DECISION};
use super::lessons::Taught;
use super::states::Versioned;
use crate::metrics::ApplicationMetrics;
use crate::output_json::OutputJson;
use crate::query::ids::QueryIds;

/// Of the records.
const FORMAT: u32 = 1;
/// The most entries that may wait for the thread.
const CAPACITY: usize = 16_384;
/// The most memory that they may take, in bytes.
const MOST_BYTES: usize = 64 << 20;
/// The shared states in a file, without the first, may be longer than everything else in it by this
/// many bytes: enough for whatever is learned by policies that do not know a context.
const SPARE_STATE_BYTES: u64 = 1 << 20;
/// After what time what was written is in the file.
const FLUSH: Duration = Duration::from_millis(500);
/// How long a file that cannot be written is let be.
const PAUSE: Duration = Duration::from_secs(1);

/// A directory of logs holds a directory for each application, with nothing but files of the log.
pub const CONTENTS: Contents = Contents { marker: None, owns: |path| holds_only_logs(path).unwrap_or(false) };

/// Where decisions are logged, and how much of them is kept.
#[derive(Debug, Clone)]
pub struct DecisionLogConfig {
    /// The directory of all applications' directories.
    pub directory: PathBuf,
    /// The size after which a file is followed by the next, in bytes.
    pub file_bytes: u64,
    /// The most files of one application; the oldest are deleted.
    pub files: usize,
}

/// The log of a frontend. The thread ends when it and every [`ApplicationLog`] are dropped.
pub struct DecisionLog {
    backlog: Backlog,
    /// The number of [`ApplicationLog`]s so far.
    numbers: AtomicU64,
}

/// The thread has not written all that was logged.
#[derive(Debug, thiserror::Error)]
#[error("the decision log was not written within {patience:?}: {entries} entries still wait")]
pub struct Unwritten {
    patience: Duration,
    entries: usize,
}

/// Logs what concerns one application, from one configuration to the next. When it is dropped the
/// application's file is closed, unless the next one writes to it already.
pub struct ApplicationLog {
    application: AppName,
    /// Told apart from other logs of the same application.
    number: u64,
    backlog: Backlog,
    /// The version of the last shared state that a decision waits with: one state is counted once.
    counted: AtomicU64,
    metrics: Arc<ApplicationMetrics>,
}

/// The way to the thread. Entries are bounded; orders about an application's file are few, and
/// always have room.
#[derive(Clone)]
struct Backlog {
    orders: Sender<Order>,
    waiting: Arc<Waiting>,
}

/// The entries that wait for the thread.
#[derive(Default)]
struct Waiting {
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

/// What the thread is told.
enum Order {
    /// The application is so from now on.
    Configure { application: AppName, configured: Configured },
    /// Write an entry of that size.
    Log { application: AppName, entry: Entry, bytes: usize },
    /// Nothing more comes from the application's log of that number.
    Close { application: AppName, number: u64 },
    /// Have all that was logged in the files, and say so.
    Flush(SyncSender<()>),
}

/// An application as it is logged from now on.
struct Configured {
    number: u64,
    selection: Selection,
    candidates: Vec<ModelName>,
    shared: Arc<Versioned>,
    metrics: Arc<ApplicationMetrics>,
}

/// What is logged.
enum Entry {
    /// A query was answered by these states.
    Decided { decided: Arc<Decided>, shared: Arc<Versioned>, own: Option<Arc<Versioned>> },
    /// There was feedback.
    Feedback(Arc<Taught>),
    /// A state changed.
    Changed(Changed),
    /// A state was replaced.
    Replaced { uid: Option<Uid>, state: Arc<Versioned> },
}

/// A change of a state.
pub struct Changed {
    /// Whose; none: the shared one.
    pub uid: Option<Uid>,
    /// The version of the state before,
    pub before: u64,
    /// and after.
    pub version: u64,
    /// What it is learned from.
    pub cause: Cause,
    /// What changed.
    pub change: Change,
}

/// What a change of a state is learned from.
pub enum Cause {
    /// Feedback, on a query if it named one.
    Feedback {
        /// The query.
        query_id: Option<u64>,
    },
    /// What became of queries that asked each model.
    Outcomes(BTreeMap<ModelName, Outcomes>),
    /// Whatever another frontend learned it from.
    Elsewhere,
}

impl DecisionLog {
    /// Starts the thread. Files are named by the frontend's number, which is in its query ids.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        config: DecisionLogConfig,
        query_ids: Arc<QueryIds>,
        mut part: EssentialPart,
    ) -> io::Result<Self> {
        let (orders, receiver) = channel();
        let waiting = Arc::<Waiting>::default();
        let writer =
            Writer { config, query_ids, applications: HashMap::new(), waiting: Arc::clone(&waiting) };
        let run = move || {
            writer.run(&receiver);
            part.finish();
        };
        thread::Builder::new().name("decision-log".to_owned()).spawn(run)?;
        Ok(Self { backlog: Backlog { orders, waiting }, numbers: AtomicU64::new(0) })
    }

    /// The log of an application, which is so from now on.
    pub fn of(
        &self,
        application: AppName,
        selection: Selection,
        candidates: Vec<ModelName>,
        shared: Arc<Versioned>,
        metrics: Arc<ApplicationMetrics>,
    ) -> ApplicationLog {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let configured = Configured { number, selection, candidates, shared, metrics: Arc::clone(&metrics) };
        self.backlog.order(Order::Configure { application: application.clone(), configured });
        let counted = AtomicU64::new(u64::MAX);
        ApplicationLog { application, number, backlog: self.backlog.clone(), counted, metrics }
    }

    /// Waits until what was logged is in the files, for `patience` at most. The thread may be stuck: in a file system that
    /// does not answer, for instance.
    ///
    /// # Errors
    /// If entries still wait then.
    pub fn flush(&self, patience: Duration) -> Result<(), Unwritten> {
        let (done, flushed) = sync_channel(1);
        let ordered = self.backlog.orders.send(Order::Flush(done)).is_ok();
        if ordered && flushed.recv_timeout(patience).is_ok() {
            return Ok(());
        }
        Err(Unwritten { patience, entries: self.backlog.waiting.entries.load(Ordering::Relaxed) })
    }
}

impl ApplicationLog {
    /// A query was answered by these states.
    pub fn decided(&self, decided: Arc<Decided>, shared: Arc<Versioned>, own: Option<Arc<Versioned>>) {
        let size = decided.size();
        if size > LARGEST_DECISION {
            self.metrics.feedback.drop_records(1);
            return;
        }
        let is_counted = self.counted.swap(shared.version, Ordering::Relaxed) == shared.version;
        let shared_size = if is_counted { 0 } else { shared.size() };
        let bytes = size + shared_size + own.as_ref().map_or(0, |own| own.size());
        self.log(Entry::Decided { decided, shared, own }, bytes);
    }

    /// There was feedback.
    pub fn feedback(&self, taught: Arc<Taught>) {
        let bytes = taught.size();
        self.log(Entry::Feedback(taught), bytes);
    }

    /// A state changed. To be told in the order of versions, and before the changed state is published.
    pub fn changed(&self, changed: Changed) {
        let bytes = changed.size();
        self.log(Entry::Changed(changed), bytes);
    }

    /// A state was replaced. To be told before it is published.
    pub fn replaced(&self, uid: Option<Uid>, state: Arc<Versioned>) {
        let bytes = state.size();
        self.log(Entry::Replaced { uid, state }, bytes);
    }

    fn log(&self, entry: Entry, bytes: usize) {
        if !self.backlog.log(&self.application, entry, bytes) {
            self.metrics.feedback.drop_records(1);
        }
    }
}

impl Drop for ApplicationLog {
    fn drop(&mut self) {
        let Self { application, number, .. } = self;
        self.backlog.order(Order::Close { application: application.clone(), number: *number });
    }
}

impl Backlog {
    /// Has an entry wait for the thread. Returns false if there is no room for it.
    fn log(&self, application: &AppName, entry: Entry, bytes: usize) -> bool {
        // First counted, then compared: two that come at once cannot both take the last place.
        let before = self.waiting.entries.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One that is larger than all room is taken while no other waits.
        let fits = before < CAPACITY && (bytes_before == 0 || bytes_before + bytes <= MOST_BYTES);
        if fits {
            self.order(Order::Log { application: application.clone(), entry, bytes });
        } else {
            self.waiting.leave(bytes);
        }
        fits
    }

    fn order(&self, order: Order) {
        // Fails only if the thread has ended by a panic: then nothing is logged any more.
        let _ = self.orders.send(order);
    }
}

impl Waiting {
    fn leave(&self, bytes: usize) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Changed {
    /// The memory that it takes, in bytes; an estimate.
    fn size(&self) -> usize {
        let figures = |Affine { add, .. }: &Affine| size_of_val(add.as_slice());
        let model = 2 * (size_of::<ModelName>() + size_of::<Affine>());
        let models = self.change.0.values().map(|affine| model + figures(affine));
        size_of::<Self>() + self.uid.as_ref().map_or(0, |uid| uid.as_str().len()) + models.sum::<usize>()
    }
}

/// Owns the files.
struct Writer {
    config: DecisionLogConfig,
    query_ids: Arc<QueryIds>,
    applications: HashMap<AppName, Logged>,
    waiting: Arc<Waiting>,
}

/// An application, and the file that is written of it.
struct Logged {
    /// That of its [`ApplicationLog`].
    number: u64,
    metrics: Arc<ApplicationMetrics>,
    selection: Selection,
    learner: Learner,
    /// The latest that is known of it: what a file begins with.
    shared: Arc<Versioned>,
    file: Option<LogFile>,
    /// Since when there is none, because it cannot be written.
    failed: Option<Instant>,
}

/// A file, and which states can be rebuilt from it.
struct LogFile {
    file: BufWriter<File>,
    /// The records in the buffer.
    buffered: u64,
    metrics: Arc<ApplicationMetrics>,
    /// The bytes of everything in it but the first shared state. A large state would otherwise fill
    /// each file.
    bytes: u64,
    /// Whether it has the first shared state.
    has_start: bool,
    /// The bytes of the other shared states.
    state_bytes: u64,
    /// By user; none: the shared state.
    known: HashMap<Option<Uid>, Span>,
}

/// The versions of one state that a file has: a state in full, and every change up to the last.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut flushed = Instant::now();
        loop {
            match orders.recv_timeout(FLUSH) {
                Ok(Order::Log { application, entry, bytes }) => {
                    self.take_in(&application, entry);
                    self.waiting.leave(bytes);
                }
                Ok(Order::Configure { application, configured }) => self.configure(application, configured),
                Ok(Order::Close { application, number }) => self.close(&application, number),
                Ok(Order::Flush(done)) => {
                    self.flush();
                    // Fails only if nobody waits any more.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if flushed.elapsed() >= FLUSH {
                self.flush();
                flushed = Instant::now();
            }
        }
        self.flush();
    }

    fn configure(&mut self, application: AppName, configured: Configured) {
        let Configured { number, selection, candidates, shared, metrics } = configured;
        let former = self.applications.remove(&application);
        let learner = Learner::new(&selection.policy, &candidates);
        // Without the shared state's span: the next record brings a new start.
        let file = former.and_then(|former| former.file).map(|mut file| {
            file.known.clear();
            file
        });
        let logged = Logged { number, metrics, selection, learner, shared, file, failed: None };
        self.applications.insert(application, logged);
    }

    /// Closes the file of an application that is deleted or logged no longer. Its files stay.
    fn close(&mut self, application: &AppName, number: u64) {
        let is_latest = self.applications.get(application).is_some_and(|logged| logged.number == number);
        if is_latest
            && let Some(mut closed) = self.applications.remove(application)
            && let Some(Err(error)) = closed.file.as_mut().map(LogFile::flush)
        {
            warn!(%error, %application, "cannot write the decision log");
        }
    }

    fn take_in(&mut self, application: &AppName, entry: Entry) {
        let Some(logged) = self.applications.get_mut(application) else { return };
        if logged.failed.is_some_and(|since| since.elapsed() < PAUSE) {
            logged.metrics.feedback.drop_records(1);
            return;
        }
        let number = self.query_ids.number();
        if let Err(error) = logged.write(&self.config, number, application, entry) {
            warn!(%error, %application, "cannot write the decision log");
            logged.metrics.feedback.drop_records(1);
            (logged.file, logged.failed) = (None, Some(Instant::now()));
        }
    }

    fn flush(&mut self) {
        for (application, logged) in &mut self.applications {
            if let Some(Err(error)) = logged.file.as_mut().map(LogFile::flush) {
                warn!(%error, %application, "cannot write the decision log");
                (logged.file, logged.failed) = (None, Some(Instant::now()));
            }
        }
    }
}

impl Logged {
    fn write(
        &mut self,
        config: &DecisionLogConfig,
        frontend: u64,
        application: &AppName,
        entry: Entry,
    ) -> io::Result<()> {
        if let Entry::Decided { shared, .. } | Entry::Replaced { uid: None, state: shared } = &entry {
            self.shared = Arc::clone(shared);
        }
        let mut file = match self.file.take() {
            Some(file) if file.bytes < config.file_bytes => file,
            full => {
                if let Some(mut full) = full {
                    full.flush()?;
                }
                LogFile::create(config, frontend, application, &self.metrics)?
            }
        };
        let needs = match &entry {
            Entry::Decided { shared, .. } => Some(shared.version),
            _ => None,
        };
        let is_started = match needs {
            Some(version) => file.has(&None, version),
            None => file.known.contains_key(&None),
        };
        if !is_started && !self.start(&mut file, application)? {
            self.metrics.feedback.drop_records(1);
            self.file = Some(file);
            return Ok(());
        }
        match entry {
            Entry::Feedback(taught) => {
                file.write(&taught.record())?;
            }
            Entry::Changed(Changed { uid, before, version, cause, change }) => {
                if let Some(span) = file.known.get_mut(&uid)
                    && span.last == before
                {
                    span.last = version;
                    let (query_id, outcomes) = match cause {
                        Cause::Feedback { query_id } => (query_id, None),
                        Cause::Outcomes(outcomes) => (None, Some(outcomes)),
                        Cause::Elsewhere => (None, None),
                    };
                    file.write(&Record::Change { version, query_id, outcomes, uid, change })?;
                }
            }
            Entry::Replaced { uid: None, state } => {
                // If there is no room for it now, a decision that needs it asks again.
                let _ = file.has(&None, state.version) || self.start(&mut file, application)?;
            }
            Entry::Replaced { uid: Some(uid), state } => {
                // A user whom no decision in this file has needed yet is none of its business.
                if file.known.contains_key(&Some(uid.clone())) {
                    file.user(uid, &state)?;
                }
            }
            Entry::Decided { decided, shared, own } => {
                if let (Some(uid), Some(own)) = (&decided.decision.uid, &own)
                    && !file.has(&Some(uid.clone()), own.version)
                {
                    file.user(uid.clone(), own)?;
                }
                let mut decision = decided.decision.clone();
                // One that was made before the candidates changed stays as it is.
                if let Some(model) = decision.asked
                    && decision.candidates == self.learner.candidates()
                {
                    let own = own.as_ref().map(|own| &own.beliefs);
                    let weights = decision.propensities.as_slice().into();
                    let choice = Choice { asked: Asked::One(model), weights };
                    decision.propensities =
                        self.learner.propensities(&shared.beliefs, own, &decision.away, &choice);
                }
                decision.outputs = decided.outputs.iter().map(json).collect();
                decision.output = OutputJson::value(&decided.output);
                file.write(&Record::Decision(Box::new(decision)))?;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes how the application is, with its shared state. Returns false if the file has too much
    /// of shared states, so that writing them would take most of the time: what needs one is then
    /// left out.
    fn start(&self, file: &mut LogFile, application: &AppName) -> io::Result<bool> {
        let others = file.bytes - file.state_bytes;
        if file.state_bytes > others + SPARE_STATE_BYTES {
            return Ok(false);
        }
        let version = self.shared.version;
        file.known.insert(None, Span { first: version, last: version });
        let length = file.write(&Record::Start {
            format: FORMAT,
            time_micros: now_micros(),
            application: application.clone(),
            selection: self.selection.clone(),
            candidates: self.learner.candidates().to_vec(),
            shared: self.shared.statistics.clone(),
            version,
        })?;
        if file.has_start {
            file.state_bytes += length;
        } else {
            (file.has_start, file.bytes) = (true, 0);
        }
        Ok(true)
    }
}

fn json(output: &Option<clipper_rpc::output::Output>) -> serde_json::Value {
    output.as_ref().map(OutputJson::value).unwrap_or_default()
}

impl LogFile {
    /// Begins a file, and deletes the oldest of those that are too many.
    fn create(
        config: &DecisionLogConfig,
        frontend: u64,
        application: &AppName,
        metrics: &Arc<ApplicationMetrics>,
    ) -> io::Result<Self> {
        let directory = config.directory.join(application.as_str());
        fs::create_dir_all(&directory)?;
        let path = loop {
            let path = directory.join(format!("{frontend}-{}.jsonl", now_micros()));
            if !path.exists() {
                break path;
            }
        };
        let file = File::create_new(path)?;
        let mut files = files(&directory)?;
        files.sort_unstable();
        for (_, oldest) in &files[..files.len().saturating_sub(config.files)] {
            fs::remove_file(oldest)?;
        }
        Ok(Self::new(file, Arc::clone(metrics)))
    }

    fn new(file: File, metrics: Arc<ApplicationMetrics>) -> Self {
        let file = BufWriter::new(file);
        let known = HashMap::new();
        Self { file, buffered: 0, metrics, bytes: 0, has_start: false, state_bytes: 0, known }
    }

    /// Writes a line. Returns its length.
    fn write(&mut self, record: &Record) -> io::Result<u64> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let length = line.len() as u64;
        self.bytes += length;
        self.file.write_all(&line)?;
        // The buffer is written first where it has no room for the line, and so is a line that is longer than all of it.
        self.buffered = match self.file.buffer().len() {
            0 => 0,
            bytes if bytes == line.len() => 1,
            _ => self.buffered + 1,
        };
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.buffered = 0;
        Ok(())
    }

    fn user(&mut self, uid: Uid, state: &Versioned) -> io::Result<u64> {
        let version = state.version;
        self.known.insert(Some(uid.clone()), Span { first: version, last: version });
        self.write(&Record::User { uid, statistics: state.statistics.clone(), version })
    }

    /// Whether a state at a version can be rebuilt.
    fn has(&self, key: &Option<Uid>, version: u64) -> bool {
        self.known.get(key).is_some_and(|span| (span.first..=span.last).contains(&version))
    }
}

impl Drop for LogFile {
    /// Counts the records that cannot be written.
    fn drop(&mut self) {
        if self.flush().is_err() {
            self.metrics.feedback.drop_records(self.buffered);
        }
    }
}

/// The files of a directory by the time at which they were begun, whichever frontend did.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        files.extend(begun(&path).map(|time| (time, path)));
    }
    Ok(files)
}

/// The time at which a file of the log was begun, according to its name; none for any other file.
fn begun(path: &Path) -> Option<u64> {
    let (_, time) = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.split_once('-')?;
    time.parse().ok()
}

fn holds_only_logs(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if begun(&entry?.path()).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Microseconds since 1970.
pub fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {

    use clipper_rpc::selection::{Affine, Statistics};
    use clipper_selection::learner::Learner;
    use clipper_server::Essentials;

    use super::super::decisions::tests::decided;
    use super::*;

    fn model() -> ModelName {
        "a".parse().unwrap()
    }

    fn state(version: u64) -> Arc<Versioned> {
        state_of(version, 1)
    }

    fn state_of(version: u64, figures: usize) -> Arc<Versioned> {
        let selection = Selection::default();
        let statistics = Statistics(BTreeMap::from([(model(), vec![version as f64; figures].into())]));
        let beliefs = Learner::new(&selection.policy, &[model()]).beliefs(&statistics);
        Arc::new(Versioned { version, statistics, beliefs })
    }

    fn change(uid: Option<&Uid>, before: u64, version: u64) -> Changed {
        let change = Change(BTreeMap::from([(model(), Affine { scale: 1.0, add: vec![1.0], missed: None })]));
        Changed { uid: uid.cloned(), before, version, cause: Cause::Elsewhere, change }
    }

    struct Fixture {
        directory: tempfile::TempDir,
        log: DecisionLog,
        application: ApplicationLog,
        metrics: Arc<ApplicationMetrics>,
    }

    impl Fixture {
        fn new(file_bytes: u64) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let config = DecisionLogConfig { directory: directory.path().to_owned(), file_bytes, files: 3 };
            let part = Essentials::default().part("the decision log");
            let log = DecisionLog::start(config, Arc::default(), part).unwrap();
            let metrics = Arc::new(ApplicationMetrics::new(Instant::now()));
            let application = log.of(
                "app".parse().unwrap(),
                Selection::default(),
                vec![model()],
                state(0),
                Arc::clone(&metrics),
            );
            Self { directory, log, application, metrics }
        }

        fn decide(&self, uid: Option<&Uid>, shared: u64, own: Option<u64>) {
            self.decide_by(uid, &state(shared), own);
        }

        fn decide_by(&self, uid: Option<&Uid>, shared: &Arc<Versioned>, own: Option<u64>) {
            let mut decided = decided(1);
            decided.decision.uid = uid.cloned();
            (decided.decision.shared_version, decided.decision.own_version) = (shared.version, own);
            self.application.decided(Arc::new(decided), Arc::clone(shared), own.map(state));
        }

        fn open_files(&self) -> usize {
            let open = fs::read_dir("/proc/self/fd").unwrap();
            let open = open.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
            open.filter(|path| path.starts_with(self.directory.path())).count()
        }

        /// The records of each file, the oldest first.
        fn files(&self) -> Vec<Vec<Record>> {
            self.log.flush(Duration::from_secs(60)).unwrap();
            let mut files = files(&self.directory.path().join("app")).unwrap();
            files.sort_unstable();
            let read = |(_, path): &(u64, PathBuf)| {
                let text = fs::read_to_string(path).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            };
            files.iter().map(read).collect()
        }
    }

    fn kinds(records: &[Record]) -> Vec<String> {
        let kind = |record: &Record| match record {
            Record::Start { version, .. } => format!("start {version}"),
            Record::User { uid, version, .. } => format!("{uid} {version}"),
            Record::Change { uid, version, .. } => {
                format!("change {} {version}", uid.as_ref().map_or("", Uid::as_str))
            }
            Record::Decision(decision) => format!("decision {}", decision.outputs.len()),
            Record::Feedback { .. } => "feedback".to_owned(),
        };
        records.iter().map(kind).collect()
    }

    #[test]
    fn a_user_is_written_before_a_decision_needs_it_and_changes_follow() {
        let fixture = Fixture::new(1 << 20);
        let anna = Uid::new("anna");
        fixture.application.changed(change(anna.as_ref(), 0, 1));
        fixture.application.changed(change(None, 0, 2));
        fixture.decide(anna.as_ref(), 2, Some(1));
        fixture.application.changed(change(anna.as_ref(), 1, 3));
        fixture.decide(anna.as_ref(), 2, Some(3));
        fixture.decide(anna.as_ref(), 2, Some(1));
        assert_eq!(
            kinds(&fixture.files()[0]),
            ["start 0", "change  2", "anna 1", "decision 3", "change anna 3", "decision 3", "decision 3"]
        );
        assert_eq!(fixture.metrics.feedback.dropped_records(), 0);
    }

    #[test]
    fn a_state_of_which_a_change_is_missing_is_written_in_full() {
        let fixture = Fixture::new(1 << 20);
        fixture.application.changed(change(None, 0, 1));
        // Version 2 was dropped.
        fixture.application.changed(change(None, 2, 3));
        fixture.decide(None, 3, None);
        assert_eq!(kinds(&fixture.files()[0]), ["start 0", "change  1", "start 3", "decision 3"]);
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_the_oldest_are_deleted() {
        let fixture = Fixture::new(1);
        let anna = Uid::new("anna");
        (0..9).for_each(|_| fixture.decide(anna.as_ref(), 5, Some(4)));
        let files = fixture.files();
        assert_eq!(files.len(), 3);
        for records in files {
            assert_eq!(kinds(&records), ["start 5", "anna 4", "decision 3"]);
        }
    }

    #[test]
    fn entries_wait_within_a_bound_in_bytes_and_a_shared_state_is_counted_once() {
        let (orders, receiver) = channel();
        let backlog = Backlog { orders, waiting: Arc::default() };
        let metrics = Arc::new(ApplicationMetrics::new(Instant::now()));
        let log = ApplicationLog {
            application: "app".parse().unwrap(),
            number: 0,
            backlog: backlog.clone(),
            counted: AtomicU64::new(u64::MAX),
            metrics: Arc::clone(&metrics),
        };
        let decide = |shared: &Arc<Versioned>| log.decided(Arc::new(decided(1)), Arc::clone(shared), None);
        let large = state_of(1, MOST_BYTES / 64);
        (0..100).for_each(|_| decide(&large));
        let bytes = backlog.waiting.bytes.load(Ordering::Relaxed);
        assert!((MOST_BYTES / 4..MOST_BYTES / 3).contains(&bytes), "{bytes}");
        assert_eq!(metrics.feedback.dropped_records(), 0);

        for version in 2..10 {
            log.replaced(None, state_of(version, MOST_BYTES / 64));
        }
        assert_eq!(metrics.feedback.dropped_records(), 6);
        let held = receiver.try_iter().filter(|order| matches!(order, Order::Log { .. })).count();
        assert_eq!(held, 102);
        assert!(backlog.waiting.bytes.load(Ordering::Relaxed) <= MOST_BYTES);
    }

    #[test]
    fn a_writer_that_is_stuck_is_not_waited_for_beyond_ones_patience() {
        let (orders, receiver) = channel();
        let backlog = Backlog { orders, waiting: Arc::default() };
        let log = DecisionLog { backlog, numbers: AtomicU64::new(0) };
        let metrics = Arc::new(ApplicationMetrics::new(Instant::now()));
        let application =
            log.of("app".parse().unwrap(), Selection::default(), vec![model()], state(0), metrics.clone());
        for _ in 0..2 * CAPACITY {
            application.changed(change(None, 0, 1));
        }
        let unwritten = log.flush(Duration::from_millis(10)).unwrap_err();
        assert_eq!(unwritten.entries, CAPACITY);
        assert_eq!(metrics.feedback.dropped_records(), CAPACITY as u64);
        // One that has ended has written nothing either.
        drop(receiver);
        assert_eq!(log.flush(Duration::from_secs(60)).unwrap_err().entries, CAPACITY);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let fixture = Fixture::new(1 << 20);
        // In the place of the application's directory.
        fs::write(fixture.directory.path().join("app"), "").unwrap();
        (0..100).for_each(|_| fixture.decide(None, 0, None));
        fixture.log.flush(Duration::from_secs(60)).unwrap();
        assert_eq!(fixture.metrics.feedback.dropped_records(), 100);
    }

    #[test]
    fn records_that_were_buffered_for_a_disk_that_is_full_are_counted() {
        let metrics = Arc::new(ApplicationMetrics::new(Instant::now()));
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut file = LogFile::new(full, Arc::clone(&metrics));
        let mut taken = 0;
        while file.user(Uid::new("anna").unwrap(), &state_of(1, 10)).is_ok() {
            taken += 1;
        }
        assert!(taken > 10, "{taken}");
        drop(file);
        assert_eq!(metrics.feedback.dropped_records(), taken);
    }

    #[test]
    fn a_decision_that_is_too_large_to_be_kept_is_not_logged_either() {
        let fixture = Fixture::new(1 << 20);
        let output = clipper_rpc::output::Output::text("x".repeat(LARGEST_DECISION));
        fixture.application.decided(Arc::new(Decided { output, ..decided(1) }), state(0), None);
        fixture.decide(None, 0, None);
        assert_eq!(kinds(&fixture.files()[0]), ["start 0", "decision 3"]);
        assert_eq!(fixture.metrics.feedback.dropped_records(), 1);
    }

    #[test]
    fn what_is_written_leaves_its_room_to_others() {
        let fixture = Fixture::new(1 << 20);
        (0..100).for_each(|_| fixture.decide(None, 0, None));
        fixture.files();
        let Waiting { entries, bytes } = &*fixture.log.backlog.waiting;
        assert_eq!((entries.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn the_file_of_an_application_that_is_logged_no_longer_is_closed_and_stays() {
        let fixture = Fixture::new(1 << 20);
        fixture.decide(None, 0, None);
        fixture.files();
        assert_eq!(fixture.open_files(), 1);
        // Another configuration goes on with the file, whenever the former log is dropped.
        let again = fixture.log.of(
            "app".parse().unwrap(),
            Selection::default(),
            vec![model()],
            state(0),
            Arc::clone(&fixture.metrics),
        );
        let Fixture { directory, log, application: former, metrics } = fixture;
        drop(former);
        let fixture = Fixture { directory, log, application: again, metrics };
        fixture.decide(None, 0, None);
        assert_eq!(fixture.files().len(), 1);
        assert_eq!(fixture.open_files(), 1);
        let Fixture { directory, log, application, metrics } = fixture;
        drop(application);
        log.flush(Duration::from_secs(60)).unwrap();
        let other =
            log.of("b".parse().unwrap(), Selection::default(), vec![model()], state(0), metrics.clone());
        let closed = Fixture { directory, log, application: other, metrics };
        assert_eq!(closed.open_files(), 0);
        assert_eq!(kinds(&closed.files()[0]), ["start 0", "decision 3", "start 0", "decision 3"]);
    }

    #[test]
    fn a_large_state_is_not_written_in_full_for_each_decision_that_follows_a_dropped_change() {
        let fixture = Fixture::new(64 << 20);
        let decisions = 40;
        // The change before each of them was dropped.
        (1..=decisions).for_each(|version| fixture.decide_by(None, &state_of(version, 100_000), None));
        let kinds = kinds(&fixture.files()[0]);
        let starts = kinds.iter().filter(|kind| kind.starts_with("start")).count() as u64;
        assert!((2..10).contains(&starts), "{starts}");
        assert_eq!(kinds.len() as u64, 2 * starts, "each state is followed by its decision");
        assert_eq!(fixture.metrics.feedback.dropped_records(), decisions - starts);
    }
}
