//! Writes log lines to standard error, as text or JSON. Each event is one line, and control characters in values are escaped.

use std::fmt::Debug;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::text::{printable, single_line};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, coloured on a terminal.
    Human,
    /// One JSON object per line, with the event's fields at the top level.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub format: LogFormat,
    /// A level or directives such as `info,coldframe::upstream=debug`.
    pub filter: String,
    /// The interval of the summary of requests served; zero disables it.
    pub summary_interval: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("invalid log filter: `{0}`")]
pub(crate) struct InvalidLogFilter(String);

/// Starts logging to standard error. Has no effect if the process already logs. Fails if the filter is invalid.
pub(crate) fn init(config: &Config) -> Result<(), InvalidLogFilter> {
    let unreadable = |_| InvalidLogFilter(config.filter.escape_debug().to_string());
    let filter = EnvFilter::builder().parse(&config.filter).map_err(unreadable)?;
    let subscriber = subscriber(config.format, filter, io::stderr, io::stderr().is_terminal());
    // Fails if another server of this process has already set a subscriber, for example in a test binary.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Builds a subscriber that writes one line per event. Values can neither end a line nor control a terminal.
fn subscriber<W: Write + 'static>(
    format: LogFormat,
    filter: EnvFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
    colours: bool,
) -> Box<dyn Subscriber + Send + Sync> {
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Human => {
            let fields = debug_fn(write_field).delimited(" ");
            Box::new(lines.with_writer(writer).with_target(false).with_ansi(colours).fmt_fields(fields).finish())
        }
        LogFormat::Json => {
            let json = lines.with_writer(move || Printable(writer())).json();
            Box::new(json.flatten_event(true).with_current_span(false).with_span_list(false).finish())
        }
    }
}

/// Writes a field of a text line: the message as it is, any other field as `name=value`.
fn write_field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    let value = single_line(&value);
    match field.name() {
        "message" => out.write_str(&value),
        name if out.has_ansi_escapes() => write!(out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
        name => write!(out, "{name}={value}"),
    }
}

/// Escapes characters that JSON permits but that can control a terminal. The JSON stays valid and keeps its meaning.
struct Printable<W>(W);

impl<W: Write> Write for Printable<W> {
    /// Expects a whole event per call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(printable(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn starting_twice_succeeds() {
        let config = Config { filter: "off".to_owned(), format: LogFormat::Human, summary_interval: Duration::ZERO };
        init(&config).unwrap();
        init(&config).unwrap();
    }

    /// Logs one event with hostile values and returns the output.
    fn logged(format: LogFormat) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, EnvFilter::new("info"), move || writer.clone(), false);
        let hostile = "a\n::error::b\r\u{1b}[2J\u{9b}\u{202e}\u{200b}##[add-mask]c";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(display = %hostile, debug = ?hostile, plain = hostile, "hostile {hostile}");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn event_is_one_line_with_escaped_values() {
        let safe = "a\\n::error::b\\r\\u001b[2J\\u009b\\u202e\\u200b\\u0023#[add-mask]c";
        let line = logged(LogFormat::Human);
        assert!(line.contains(&format!(" hostile {safe} display={safe} debug=\"a\\n")), "{line}");
        let json = logged(LogFormat::Json);
        assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["display"].as_str().unwrap().starts_with("a\n::error"));
        for output in [line, json] {
            let unsafe_letter = |letter: char| (letter.is_control() && letter != '\n') || "\u{202e}\u{200b}".contains(letter);
            assert!(output.ends_with('\n') && output.lines().count() == 1, "{output}");
            assert!(!output.contains(unsafe_letter) && !output.contains("##["), "{output}");
        }
    }

    #[test]
    fn invalid_filter_is_an_error() {
        let config = Config { filter: "coldframe=loud".to_owned(), format: LogFormat::Human, summary_interval: Duration::ZERO };
        assert_eq!(init(&config).unwrap_err().to_string(), "invalid log filter: `coldframe=loud`");
    }
}
