//! `coldframe vet`: opens a tarball and prints what it holds. Needs no network.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::output::{CliError, Exit, OutputArgs};
use crate::text::push_line;
use crate::vetting::archive::ArchiveLimits;
use crate::vetting::inspect::{Inspection, inspect};
use crate::vetting::manifest::Manifest;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Tarballs of packages.
    #[arg(value_name = "TARBALL", required = true)]
    tarballs: Vec<PathBuf>,
    /// The version's manifest as the registry states it, to compare with `package.json`.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit, CliError> {
    let stated = arguments.manifest.as_deref().map(read_manifest).transpose()?;
    let mut vetted = Vec::new();
    for path in &arguments.tarballs {
        let mut inspection = inspect(&read(path)?, ArchiveLimits::default());
        if let Some(stated) = &stated {
            inspection.compare(stated);
        }
        vetted.push((path.display().to_string(), inspection));
    }
    let is_clean = vetted.iter().all(|(_, inspection)| inspection.evidence.is_empty());
    let json = || json!({ "tarballs": vetted.iter().map(|(path, inspection)| to_json(path, inspection)).collect::<Vec<_>>() });
    arguments.output.print(|| format(&vetted), json)?;
    Ok(if is_clean { Exit::Done } else { Exit::Refused })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|error| CliError::failed(anyhow::Error::from(error).context(path.display().to_string())))
}

fn read_manifest(path: &Path) -> Result<Manifest, CliError> {
    Manifest::parse(&read(path)?).map_err(|error| CliError::failed(anyhow::anyhow!("{}: {error}", path.display())))
}

fn to_json(path: &str, inspection: &Inspection) -> Value {
    let findings = inspection.evidence.iter();
    let findings: Vec<_> =
        findings.map(|evidence| json!({ "finding": evidence.finding.as_str(), "detail": evidence.detail })).collect();
    json!({ "path": path, "files": inspection.files, "unpackedBytes": inspection.unpacked_bytes, "findings": findings })
}

fn format(vetted: &[(String, Inspection)]) -> String {
    let mut text = String::new();
    for (path, inspection) in vetted {
        let summary = format!("{} files, {} bytes unpacked", inspection.files, inspection.unpacked_bytes);
        let verdict = if inspection.evidence.is_empty() { "no findings" } else { "findings" };
        push_line!(text, "{path}: {verdict} ({summary})");
        for evidence in &inspection.evidence {
            push_line!(text, "  {}: {}", evidence.finding.as_str(), evidence.detail);
        }
    }
    text
}
