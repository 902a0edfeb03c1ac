//! A sled database in a folder of the data directory: how it is opened, made durable, and holds values of any length.
//!
//! [`crate::store`] and the store of the selection states are upon it; nothing else knows sled. [`Database::sync`]
//! makes everything before it durable: `flush` hands sled's buffers to the kernel, `fsync` of the database file takes
//! them to the disk. Blocks; called by the threads that own the stores only.
//!
//! A value is cut into pieces of [`PIECE`] bytes, each under a key of its own: sled moves tree nodes (16 entries) above
//! 128 KiB into files of their own, which it neither syncs nor reliably removes (2,000 rewrites of 20 records of 300 kB
//! left 1.1 GB behind). With nodes below that, its segment cleaner bounds the file: 30,000 rewrites of 20 records of
//! 2 kB leave 2.6 MB, whether after 6,000 or all of them.
//!
//! Invariant: whatever ends the process, the next finds all that was written up to the last sync, and of the
//! transactions and batches after it the first few, each whole.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use crate::error::OpenError;
use crate::lock;

/// See the module's documentation: 16 entries of a node, and some more before it is split, stay below 128 KiB.
pub(crate) const PIECE: usize = 4096;
/// sled can loop for ever on a file that is garbage. A sound one opens in some 10 ms.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// The thread that opens the database.
const OPENING_THREAD: &str = "clipper-store-open";

/// An open database.
pub(crate) struct Database {
    sled: sled::Db,
    /// The file that sled writes, opened again to sync it.
    file: File,
}

impl Database {
    /// Opens the database in a folder, or creates it; errors name `directory`. To be called by way of [`carefully`].
    pub(crate) fn open(directory: &Path, folder: &Path) -> Result<Self, OpenError> {
        let config = sled::Config::new().path(folder).cache_capacity(16 << 20).flush_every_ms(None);
        let sled = lock::patiently(|| config.open(), is_locked).map_err(explain(directory))?;
        let file = File::open(folder.join("db")).map_err(|error| OpenError::unreadable(directory, error))?;
        Ok(Self { sled, file })
    }

    /// Opens a tree of it, or creates it.
    pub(crate) fn tree(&self, directory: &Path, name: &str) -> Result<sled::Tree, OpenError> {
        self.sled.open_tree(name).map_err(explain(directory))
    }

    /// Makes durable what opening it wrote: sled syncs neither that nor the names of its files.
    pub(crate) fn settle(&self, directory: &Path, folder: &Path) -> Result<(), OpenError> {
        self.sled.flush().map_err(explain(directory))?;
        sync_folder(folder).map_err(|error| OpenError::unreadable(directory, error))
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn sync(&self) -> Result<(), String> {
        self.sled.flush().map_err(failed)?;
        self.file.sync_all().map_err(|error| error.to_string())
    }
}

/// Opens a database on a thread of its own: on a file that is garbage, sled returns an error, panics, or never returns.
pub(crate) fn carefully<T: Send + 'static>(
    directory: &Path,
    opening: impl FnOnce(&Path) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let (answer, answered) = mpsc::channel();
    let path = directory.to_owned();
    silence_opening_threads();
    thread::Builder::new()
        .name(OPENING_THREAD.into())
        .spawn(move || drop(answer.send(opening(&path))))
        .map_err(|error| OpenError::unreadable(directory, error))?;
    answered.recv_timeout(OPEN_TIME).unwrap_or_else(|error| {
        Err(OpenError::corrupt(
            directory,
            match error {
                mpsc::RecvTimeoutError::Timeout => "it could not be read in half a minute",
                mpsc::RecvTimeoutError::Disconnected => "its structure is damaged",
            },
        ))
    })
}

/// A panic of sled upon a damaged file is reported as the error that it is, not with a backtrace as well.
fn silence_opening_threads() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(OPENING_THREAD) {
                usual(panic);
            }
        }));
    });
}

/// The key of one piece of a value.
pub(crate) fn piece_key(key: &[u8], piece: u32) -> Vec<u8> {
    [key, &piece.to_be_bytes()].concat()
}

/// Checks that the database is the one that was first opened here, of which a note is made at `path` then. sled takes a
/// file whose beginning is damaged for an empty log: without the note, all that is in it could be lost in silence.
pub(crate) fn check_identity(directory: &Path, path: &Path, identity: Uuid) -> Result<(), OpenError> {
    let noted = note(path, identity).map_err(|error| OpenError::unreadable(directory, error))?;
    if noted.trim() == identity.to_string() {
        Ok(())
    } else {
        Err(OpenError::corrupt(directory, "it is not the database that was created here"))
    }
}

/// What is noted, which is `identity` if nothing was before.
fn note(path: &Path, identity: Uuid) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let unfinished = path.with_extension("new");
            fs::write(&unfinished, format!("{identity}\n"))?;
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, path)?;
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
            Ok(identity.to_string())
        }
        read => read,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

fn explain(directory: &Path) -> impl Fn(sled::Error) -> OpenError + '_ {
    move |error| match error {
        sled::Error::Io(error) => OpenError::unreadable(directory, error),
        other => OpenError::corrupt(directory, in_our_words("it cannot be opened")(other)),
    }
}

/// Says in words of ours what cannot be read. Those of sled are for its developers; the log has them.
pub(crate) fn in_our_words(what: &str) -> impl Fn(sled::Error) -> String {
    move |error| {
        tracing::debug!(%error, "{what}");
        what.to_owned()
    }
}

/// Why something could not be read or written once the database was open.
pub(crate) fn failed(error: sled::Error) -> String {
    match error {
        sled::Error::Io(error) => error.to_string(),
        other => in_our_words("the database failed")(other),
    }
}

/// Whether sled found its file locked, for which it has no kind of its own. Nobody but a process that is being
/// started can hold that lock, since the directory's is ours.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}
