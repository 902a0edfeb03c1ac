//! `clipper`: one program for every process of a cluster.
//!
//! Reads the settings, starts what they name, and turns signals into an orderly end. Whatever goes wrong is one line on
//! standard error and a non-zero exit.

mod bench;
mod offline;
mod roles;
mod settings;
mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clipper_server::private_directory::UMASK;
use nix::sys::stat::umask;
use tracing_subscriber::EnvFilter;

use self::settings::{LogFormat, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A guard runs in the environment of its model, which must not be read as settings.
    if let [_, first, command @ ..] = &arguments[..]
        && first == roles::GUARD
    {
        return clipper_management::guard::main(command.to_vec());
    }
    let settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    if settings.role.is_server() {
        // Before anything is created: see `private_directory`. Guards and models inherit it.
        umask(UMASK);
    }
    if let Err(error) = log(&settings) {
        return fail(&error);
    }
    match actix_rt::System::new().block_on(roles::run(settings.role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line, however many causes there are.
fn fail(error: &anyhow::Error) -> ExitCode {
    // That nobody can read it is no reason to panic.
    let _ = writeln!(std::io::stderr(), "clipper: {error:#}");
    ExitCode::FAILURE
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&settings.log_level)
        .with_context(|| format!("--log-level '{}'", settings.log_level))?;
    // A line that cannot be written is dropped: complaining of it on standard error would panic where that is broken.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match settings.log_format {
        LogFormat::Human => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(terminal).init();
        }
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
