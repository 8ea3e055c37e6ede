//! `coldframe vet`: opens tarballs and prints what looks wrong in them. A file needs no network; a version is downloaded and
//! compared with the packument and with earlier releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::app;
use crate::cli::flags::QueryArgs;
use crate::cli::output::Exit;
use crate::cli::runtime::block_on;
use crate::clock::SystemClock;
use crate::firewall::Explanation;
use crate::npm::PackageSpec;
use crate::text::push_line;
use crate::vetting::FindingEvidence;
use crate::vetting::archive::ArchiveLimits;
use crate::vetting::contents::ContentSummary;
use crate::vetting::inspect::{ContentBaseline, Inspection, inspect};
use crate::vetting::manifest::Manifest;

/// The facts of an explanation that are about the release itself.
const SHOWN_FACTS: [&str; 6] = ["signature", "provenance", "provenance since", "signal", "not decided", "not observable"];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Tarballs (`axios-1.14.1.tgz`) or versions (`axios@1.14.1`).
    #[arg(value_name = "TARBALL|SPEC", required = true)]
    targets: Vec<String>,
    /// For a tarball: the version's manifest as the registry states it, to compare with `package.json`.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// For a tarball: the one of an earlier release, to see what changed.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    #[command(flatten)]
    query: QueryArgs,
}

/// What one target holds. Files have no explanation.
struct VettedTarget {
    target: String,
    inspection: Inspection,
    explanation: Option<Explanation>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let stated = arguments.manifest.as_deref().map(read_manifest).transpose()?;
    let limits = ArchiveLimits::of_memory(arguments.query.settings.config()?.firewall.limits.vetting_memory);
    let before = arguments.before.as_deref().map(|path| read_before(path, limits)).transpose()?;
    let mut vetted = Vec::new();
    for target in arguments.targets {
        vetted.push(if is_file(&target) {
            vet_file(target, limits, stated.as_ref(), before.as_ref())?
        } else {
            vet_version(&target, &arguments.query)?
        });
    }
    let is_clean = vetted.iter().all(|vetted| vetted.inspection.evidence.is_empty());
    let json = || json!({ "vetted": vetted.iter().map(VettedTarget::json).collect::<Vec<_>>() });
    arguments.query.output.print(|| vetted.iter().map(VettedTarget::text).collect(), json)?;
    Ok(if is_clean { Exit::Done } else { Exit::Refused })
}

fn is_file(target: &str) -> bool {
    let path = Path::new(target);
    path.extension().is_some_and(|extension| extension == "tgz") || path.is_file()
}

fn vet_file(
    target: String,
    limits: ArchiveLimits,
    stated: Option<&Manifest>,
    before: Option<&(String, ContentSummary)>,
) -> anyhow::Result<VettedTarget> {
    let mut inspection = inspect(&read(Path::new(&target))?, limits);
    if let Some(stated) = stated {
        inspection.compare(stated);
    }
    inspection.compare_contents(before.map(|(path, summary)| (&**path, summary)));
    Ok(VettedTarget { target, inspection, explanation: None })
}

fn vet_version(target: &str, query: &QueryArgs) -> anyhow::Result<VettedTarget> {
    let spec =
        PackageSpec::parse(target).map_err(|error| anyhow::anyhow!("`{target}` is neither a file nor a version: {error}"))?;
    let config = query.settings.config()?;
    let (explanation, inspection) = block_on(app::vet(config, Arc::new(SystemClock), &spec))??;
    let target = format!("{}@{}", explanation.name, explanation.version);
    Ok(VettedTarget { target, inspection, explanation: Some(explanation) })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn read_before(path: &Path, limits: ArchiveLimits) -> anyhow::Result<(String, ContentSummary)> {
    let before = inspect(&read(path)?, limits).summary();
    let shown = path.display().to_string();
    let before = before.with_context(|| format!("cannot compare with `{shown}`: it is no readable tarball of a package"))?;
    Ok((shown, before))
}

fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    Manifest::parse(&read(path)?).map_err(|error| anyhow::anyhow!("cannot read `{}`: {error}", path.display()))
}

impl VettedTarget {
    fn json(&self) -> Value {
        let Self { target, inspection, explanation } = self;
        json!({
            "target": target,
            "files": inspection.files,
            "unpackedBytes": inspection.unpacked_bytes,
            "findings": inspection.evidence.iter().map(FindingEvidence::json).collect::<Vec<_>>(),
            "comparedWith": match &inspection.baseline { ContentBaseline::Compared(version) => Some(version), _ => None },
            "changesJudged": !inspection.is_past_rules,
            "explanation": explanation.as_ref().map(Explanation::json),
        })
    }

    fn text(&self) -> String {
        let Self { target, inspection, explanation } = self;
        let mut text = String::new();
        let summary = format!("{} files, {} bytes unpacked", inspection.files, inspection.unpacked_bytes);
        let baseline = inspection.baseline.describe().map(|baseline| format!(", {baseline}")).unwrap_or_default();
        let result = if inspection.evidence.is_empty() { "no findings" } else { "findings" };
        push_line!(text, "{target}: {result} ({summary}{baseline})");
        if inspection.is_past_rules {
            push_line!(text, "  note: no rule judges any more what changed since its predecessor, because of its age");
        }
        for evidence in &inspection.evidence {
            push_line!(text, "  finding: {}", evidence.describe());
        }
        let facts = explanation.iter().flat_map(|explanation| explanation.seen.rows());
        for (about, what) in facts.filter(|(about, _)| SHOWN_FACTS.contains(about)) {
            push_line!(text, "  {about}: {what}");
        }
        text
    }
}
