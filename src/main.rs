//! The `plutino` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    plutino::cli::main()
}
