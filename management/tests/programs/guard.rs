//! `clipper guard`, for the tests of this crate, which cannot depend on the binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    clipper_management::guard::main(std::env::args_os().skip(1).collect())
}
