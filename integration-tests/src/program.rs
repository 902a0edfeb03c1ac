//! Where the programs under test are, and how they are run so that nothing around the tests reaches them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::survivors::MARK;

/// The Python interpreter of the tests, in which `clipper_container` and what it needs are installed.
const PYTHON_VARIABLE: &str = "CLIPPER_TEST_PYTHON";

/// The `clipper` binary.
pub fn clipper() -> PathBuf {
    built("clipper")
}

/// An example of the Rust SDK: `noop` or `sum`.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

/// A program of this workspace, from the folder in which the running test was built.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --bins --examples` first",
        program.display()
    );
    program
}

/// The Python interpreter. Panics if none is named: a test that needs it must not pass without it.
pub fn python() -> PathBuf {
    named_python().unwrap_or_else(|| {
        panic!(
            "{PYTHON_VARIABLE} is not set: set it to a Python interpreter in which containers/python is installed, as \
             `make test` does"
        )
    })
}

/// The Python interpreter, if one is named.
pub fn named_python() -> Option<PathBuf> {
    std::env::var_os(PYTHON_VARIABLE).map(PathBuf::from)
}

/// The folder of the Python models that the tests serve.
pub fn python_models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

/// A command that does not see the `CLIPPER_*` variables of whoever runs the tests.
pub fn isolated(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLIPPER_") {
            command.env_remove(name);
        }
    }
    command.env_remove(MARK);
    command
}
