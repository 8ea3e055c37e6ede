//! Escapes text from outside for its destination: terminal, CI log, log line, HTTP header, HTML, Markdown,
//! chat or spreadsheet.
//!
//! Every value that Coldframe did not create itself goes through one of these functions before it is printed. Escapes have JSON's
//! form (`\n`, `\u001b`), so a JSON document stays valid and keeps its meaning after [`printable`].

mod escape;
mod table;
mod words;

pub use escape::{ascii_line, excerpt, json_error, markdown, markdown_code, printable, shell_word, single_line};
pub(crate) use escape::{csv, push_line};
pub use table::TextTable;
pub(crate) use words::words;
