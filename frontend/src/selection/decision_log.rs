//! The decision log: what is decided and learned, as JSON lines, one directory for each application that asks for it.
//!
//! Requests and actors hand over entries and never wait: a thread of its own writes them, and what it cannot keep up with is
//! dropped and counted. Invariant: a state that a decision in a file was made by can be rebuilt from that file, dropped entries
//! or not: a change is written only where the file has the state before it, and a state is written in full where a decision
//! needs it and the file does not have it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Selection, Uid};
use clipper_selection::learner::{Asked, Choice, Learner};
use clipper_selection::log::Record;
use clipper_server::private_directory::Contents;
use tracing::warn;

use super::decisions::Decided;
use super::states::Versioned;
use crate::metrics::ApplicationMetrics;
use crate::output_json::OutputJson;
use crate::query_ids::QueryIds;

/// Of the records.
const FORMAT: u32 = 1;
/// How many entries may wait for the thread.
const CAPACITY: usize = 16_384;
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
    orders: SyncSender<Order>,
}

/// Logs what concerns one application.
pub struct ApplicationLog {
    application: AppName,
    orders: SyncSender<Order>,
    metrics: Arc<ApplicationMetrics>,
}

/// What the thread is told.
enum Order {
    Log(AppName, Entry),
    /// Have all that was logged in the files, and say so.
    Flush(SyncSender<()>),
}

/// What is logged.
enum Entry {
    /// The application is so from now on.
    Configured { selection: Selection, candidates: Vec<ModelName>, shared: Arc<Versioned> },
    /// A query was answered by these states.
    Decided { decided: Arc<Decided>, shared: Arc<Versioned>, own: Option<Arc<Versioned>> },
    /// There was feedback.
    Feedback(Record),
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
    /// The query whose feedback it is.
    pub query_id: Option<u64>,
    /// What changed.
    pub change: Change,
}

impl DecisionLog {
    /// Starts the thread. Files are named by the frontend's number, which is in its query ids.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(config: DecisionLogConfig, query_ids: Arc<QueryIds>) -> io::Result<Self> {
        let (orders, receiver) = sync_channel(CAPACITY);
        let writer = Writer { config, query_ids, applications: HashMap::new() };
        thread::Builder::new().name("decision-log".to_owned()).spawn(move || writer.run(&receiver))?;
        Ok(Self { orders })
    }

    /// The log of an application.
    pub fn of(&self, application: AppName, metrics: Arc<ApplicationMetrics>) -> ApplicationLog {
        ApplicationLog { application, orders: self.orders.clone(), metrics }
    }

    /// Waits until what was logged is in the files, for so long at most.
    pub fn flush(&self, patience: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.orders.send(Order::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(patience);
        }
    }
}

impl ApplicationLog {
    /// The application is so from now on.
    pub fn configured(&self, selection: Selection, candidates: Vec<ModelName>, shared: Arc<Versioned>) {
        self.log(Entry::Configured { selection, candidates, shared });
    }

    /// A query was answered by these states.
    pub fn decided(&self, decided: Arc<Decided>, shared: Arc<Versioned>, own: Option<Arc<Versioned>>) {
        self.log(Entry::Decided { decided, shared, own });
    }

    /// There was feedback.
    pub fn feedback(&self, record: Record) {
        self.log(Entry::Feedback(record));
    }

    /// A state changed. To be told in the order of versions, and before the changed state is published.
    pub fn changed(&self, changed: Changed) {
        self.log(Entry::Changed(changed));
    }

    /// A state was replaced. To be told before it is published.
    pub fn replaced(&self, uid: Option<Uid>, state: Arc<Versioned>) {
        self.log(Entry::Replaced { uid, state });
    }

    fn log(&self, entry: Entry) {
        if self.orders.try_send(Order::Log(self.application.clone(), entry)).is_err() {
            self.metrics.feedback.drop_record();
        }
    }
}

/// Owns the files.
struct Writer {
    config: DecisionLogConfig,
    query_ids: Arc<QueryIds>,
    applications: HashMap<AppName, Logged>,
}

/// An application, and the file that is written of it.
struct Logged {
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
    bytes: u64,
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
                Ok(Order::Log(application, entry)) => self.take_in(application, entry),
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

    fn take_in(&mut self, application: AppName, entry: Entry) {
        if let Entry::Configured { selection, candidates, shared } = entry {
            let former = self.applications.remove(&application);
            let learner = Learner::new(&selection.policy, &candidates);
            let mut logged = Logged { selection, learner, shared, file: None, failed: None };
            // Without the shared state's span: the next record brings a new start.
            logged.file = former.and_then(|former| former.file).map(|mut file| {
                file.known.clear();
                file
            });
            self.applications.insert(application, logged);
            return;
        }
        let Some(logged) = self.applications.get_mut(&application) else { return };
        if logged.failed.is_some_and(|since| since.elapsed() < PAUSE) {
            return;
        }
        let number = self.query_ids.number();
        if let Err(error) = logged.write(&self.config, number, &application, entry) {
            warn!(%error, %application, "cannot write the decision log");
            (logged.file, logged.failed) = (None, Some(Instant::now()));
        }
    }

    fn flush(&mut self) {
        for (application, logged) in &mut self.applications {
            if let Some(Err(error)) = logged.file.as_mut().map(|file| file.file.flush()) {
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
                    full.file.flush()?;
                }
                LogFile::create(config, frontend, application)?
            }
        };
        if !file.known.contains_key(&None) {
            self.start(&mut file, application)?;
        }
        match entry {
            Entry::Configured { .. } => {}
            Entry::Feedback(record) => file.write(&record)?,
            Entry::Changed(Changed { uid, before, version, query_id, change }) => {
                if let Some(span) = file.known.get_mut(&uid)
                    && span.last == before
                {
                    span.last = version;
                    file.write(&Record::Change { version, query_id, uid, change })?;
                }
            }
            Entry::Replaced { uid: None, state } => {
                if !file.has(&None, state.version) {
                    self.start(&mut file, application)?;
                }
            }
            Entry::Replaced { uid: Some(uid), state } => {
                // A user whom no decision in this file has needed yet is none of its business.
                if file.known.contains_key(&Some(uid.clone())) {
                    file.user(uid, &state)?;
                }
            }
            Entry::Decided { decided, shared, own } => {
                if !file.has(&None, shared.version) {
                    self.start(&mut file, application)?;
                }
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
                    decision.propensities = self.learner.propensities(&shared.beliefs, own, &choice);
                }
                decision.outputs = decided.outputs.iter().map(json).collect();
                decision.output = OutputJson::value(&decided.output);
                file.write(&Record::Decision(Box::new(decision)))?;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes how the application is, with its shared state.
    fn start(&self, file: &mut LogFile, application: &AppName) -> io::Result<()> {
        let version = self.shared.version;
        file.known.insert(None, Span { first: version, last: version });
        file.write(&Record::Start {
            format: FORMAT,
            time_micros: now_micros(),
            application: application.clone(),
            selection: self.selection.clone(),
            candidates: self.learner.candidates().to_vec(),
            shared: self.shared.statistics.clone(),
            version,
        })
    }
}

fn json(output: &Option<clipper_rpc::output::Output>) -> serde_json::Value {
    output.as_ref().map(OutputJson::value).unwrap_or_default()
}

impl LogFile {
    /// Begins a file, and deletes the oldest of those that are too many.
    fn create(config: &DecisionLogConfig, frontend: u64, application: &AppName) -> io::Result<Self> {
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
        Ok(Self { file: BufWriter::new(file), bytes: 0, known: HashMap::new() })
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }

    fn user(&mut self, uid: Uid, state: &Versioned) -> io::Result<()> {
        let version = state.version;
        self.known.insert(Some(uid.clone()), Span { first: version, last: version });
        self.write(&Record::User { uid, statistics: state.statistics.clone(), version })
    }

    /// Whether a state at a version can be rebuilt.
    fn has(&self, key: &Option<Uid>, version: u64) -> bool {
        self.known.get(key).is_some_and(|span| (span.first..=span.last).contains(&version))
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
    use std::collections::BTreeMap;

    use clipper_rpc::selection::{Affine, Statistics};
    use clipper_selection::learner::Learner;

    use super::super::decisions::tests::decided;
    use super::*;

    fn model() -> ModelName {
        "a".parse().unwrap()
    }

    fn state(version: u64) -> Arc<Versioned> {
        let selection = Selection::default();
        let statistics = Statistics(BTreeMap::from([(model(), vec![version as f64])]));
        let beliefs = Learner::new(&selection.policy, &[model()]).beliefs(&statistics);
        Arc::new(Versioned { version, statistics, beliefs })
    }

    fn change(uid: Option<&Uid>, before: u64, version: u64) -> Changed {
        let change = Change(BTreeMap::from([(model(), Affine { scale: 1.0, add: vec![1.0] })]));
        Changed { uid: uid.cloned(), before, version, query_id: None, change }
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
            let log = DecisionLog::start(config, Arc::default()).unwrap();
            let metrics = Arc::new(ApplicationMetrics::new(Instant::now()));
            let application = log.of("app".parse().unwrap(), Arc::clone(&metrics));
            application.configured(Selection::default(), vec![model()], state(0));
            Self { directory, log, application, metrics }
        }

        fn decide(&self, uid: Option<&Uid>, shared: u64, own: Option<u64>) {
            let mut decided = decided(1);
            decided.decision.uid = uid.cloned();
            (decided.decision.shared_version, decided.decision.own_version) = (shared, own);
            self.application.decided(Arc::new(decided), state(shared), own.map(state));
        }

        /// The records of each file, the oldest first.
        fn files(&self) -> Vec<Vec<Record>> {
            self.log.flush(Duration::from_secs(60));
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
}
