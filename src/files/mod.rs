//! Reads files that other processes write, up to a size limit, and detects changes to them.
//!
//! A pipe is rejected where a file is expected: it could block the reader, and would be empty the next time.

mod poll;
mod read;

pub use poll::{FilePoller, FileStamps, POLL_INTERVAL};
pub use read::{create_private_folder, into_text, read_bounded, read_pipe_bounded};
