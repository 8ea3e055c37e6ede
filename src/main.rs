//! The `coldframe` binary: sets the global allocator and calls the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    coldframe::cli::run(std::env::args_os())
}
