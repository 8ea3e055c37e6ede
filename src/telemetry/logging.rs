//! Where log lines go: to standard error, for people or as JSON. Refuses to know what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::TelemetryError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line, the event's fields at its top.
    Json,
}

/// How much is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How lines look.
    pub format: Format,
    /// A level, or directives such as `info,coldframe::upstream=debug`.
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::default(), filter: "info".to_owned() }
    }
}

/// Starts logging to standard error. Where a process already logs, that stays as it is.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(config: &Config) -> Result<(), TelemetryError> {
    let unreadable = |_| TelemetryError::Filter(config.filter.escape_debug().to_string());
    let filter = EnvFilter::builder().parse(&config.filter).map_err(unreadable)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that somebody was first, as in a test binary that builds many servers.
    let _ = match config.format {
        Format::Human => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_twice_is_no_accident() {
        let config = Config { filter: "off".to_owned(), ..Config::default() };
        start(&config).unwrap();
        start(&config).unwrap();
    }

    #[test]
    fn a_filter_nobody_can_read_is_told() {
        let wrong = Config { filter: "coldframe=loud".to_owned(), ..Config::default() };
        assert_eq!(start(&wrong).unwrap_err().to_string(), "not a log filter: `coldframe=loud`");
    }
}
