//! `clipper`: one program for every process of a cluster.
//!
//! Reads the settings, starts what they name, and turns signals into an orderly end. Whatever goes wrong is one line on
//! standard error and a non-zero exit.

mod roles;
mod settings;
mod signals;

use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use self::settings::{LogFormat, Role, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = match Settings::read() {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    if let Role::Guard { command } = settings.role {
        return clipper_management::guard::main(command);
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
    eprintln!("clipper: {error:#}");
    ExitCode::FAILURE
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&settings.log_level)
        .with_context(|| format!("--log-level '{}'", settings.log_level))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Human => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(terminal).init();
        }
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
