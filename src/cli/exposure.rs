//! `coldframe exposure`: who asked for a package, and whether they got it.

use clap::Args;
use serde_json::{Value, json};

use super::flags::SettingFlags;
use super::output::{self, Columns, Exit, Failure};
use crate::app;
use crate::config;
use crate::npm::{Spec, instant};
use crate::store::{Exposure, Outcome};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A package, or one version of it: `axios`, `axios@1.14.1`.
    #[arg(value_name = "PACKAGE[@VERSION]", value_parser = Spec::parse)]
    spec: Spec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    let spec = arguments.spec;
    let exposures = app::exposure(&data_dir, &spec)?;
    let text = if arguments.json { tell_json(&exposures) } else { tell(&spec, &exposures) };
    output::print(&text)?;
    Ok(Exit::Done)
}

fn tell_json(exposures: &[Exposure]) -> String {
    let rows: Vec<_> = exposures.iter().map(row_json).collect();
    format!("{:#}\n", Value::Array(rows))
}

fn row_json(exposure: &Exposure) -> Value {
    json!({
        "client": exposure.client,
        "tool": exposure.tool,
        "toolVersion": exposure.tool_version,
        "version": exposure.version,
        "integrity": exposure.integrity,
        "outcome": outcome(exposure),
        "rule": exposure.rule,
        "times": exposure.times,
        "first": exposure.first.to_string(),
        "last": exposure.last.to_string(),
    })
}

fn tell(spec: &Spec, exposures: &[Exposure]) -> String {
    if exposures.is_empty() {
        let version = spec.wanted.as_deref().map(|wanted| format!("@{wanted}")).unwrap_or_default();
        return format!("nobody asked for {}{version}, as far as the ledger reaches back\n", spec.name);
    }
    let mut columns = Columns::indented("");
    columns.row(["CLIENT", "TOOL", "VERSION", "OUTCOME", "TIMES", "FIRST", "LAST"]);
    for exposure in exposures {
        let tool = match (&*exposure.tool, &*exposure.tool_version) {
            ("other", "") => "unknown".to_owned(),
            ("other", product) => product.to_owned(),
            (tool, "") => tool.to_owned(),
            (tool, version) => format!("{tool}/{version}"),
        };
        let outcome = match &exposure.rule {
            Some(rule) if exposure.outcome == Outcome::Served => format!("served, noted by {rule}"),
            Some(rule) => format!("{} by {rule}", outcome(exposure)),
            None => outcome(exposure).to_owned(),
        };
        let (times, first, last) = (exposure.times.to_string(), instant::tell(exposure.first), instant::tell(exposure.last));
        columns.row([exposure.client.clone(), tool, exposure.version.clone(), outcome, times, first, last]);
    }
    columns.to_string()
}

fn outcome(exposure: &Exposure) -> &'static str {
    match exposure.outcome {
        Outcome::Served => "served",
        Outcome::Refused => "refused",
    }
}
