//! `clipper`: one program for every process of a cluster.
//!
//! Reads the settings, starts what they name, and turns signals into an orderly end. Whatever goes wrong is one line on
//! standard error and a non-zero exit.

mod backup;
mod bench;
mod log;
mod offline;
mod roles;
mod settings;
mod signals;
mod tokens;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clipper_rpc::printable::Printable;
use clipper_server::private_directory::UMASK;
use nix::sys::stat::umask;
use tracing::error;

use self::settings::Settings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time for a process to end after an error.
const AFTER_ERROR: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A guard runs in the environment of its model, which must not be read as settings.
    if let [_, first, command @ ..] = &arguments[..]
        && first == roles::GUARD
    {
        return clipper_management::guard::main(command.to_vec());
    }
    let mut settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    if settings.role.keeps_secrets() {
        // Before anything is created: see `private_directory`. Guards and models inherit it.
        umask(UMASK);
    }
    if !settings.role.is_server() {
        settings.log.log_file = None;
    }
    let has_log_file = settings.log.log_file.is_some();
    let _reports = match log::start(&settings.log) {
        Ok(reports) => reports,
        Err(error) => return fail(&error),
    };
    match actix_rt::System::new().block_on(roles::run(settings.role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What other threads still wait for, such as a disk, does not keep the process. Without a thread for the limit
            // it does.
            let _ = signals::end_within(AFTER_ERROR);
            if has_log_file {
                error!("{error:#}");
            }
            fail(&error)
        }
    }
}

/// Prints one line, however many causes there are, and whatever is in them.
fn fail(error: &anyhow::Error) -> ExitCode {
    // That nobody can read it is no reason to panic.
    let _ = writeln!(std::io::stderr(), "clipper: {}", Printable(format_args!("{error:#}")));
    ExitCode::FAILURE
}
