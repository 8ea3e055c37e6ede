//! Opens a tarball and says what it holds. Pure, and bounded in memory; never runs anything.

use crate::text;
use crate::vetting::archive::{self, ArchiveFile, ArchiveLimits};
use crate::vetting::manifest::{Manifest, TarballTraits};
use crate::vetting::names::{Finding, FindingEvidence, Findings};

/// Changes with what [`inspect`] finds, so that stored results of an older build are made again.
pub const INSPECTION_VERSION: u32 = 1;

/// The longest text of a piece of evidence, in characters.
const MAX_EVIDENCE_CHARS: usize = 500;

/// What a tarball holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    pub evidence: Vec<FindingEvidence>,
    /// `None` if it has no readable `package.json`.
    pub manifest: Option<Manifest>,
    pub traits: TarballTraits,
    pub files: usize,
    pub unpacked_bytes: u64,
}

impl Inspection {
    pub fn findings(&self) -> Findings {
        self.evidence.iter().map(|evidence| evidence.finding).collect()
    }

    /// Adds the findings that depend on what the packument says of the tarball.
    pub fn compare(&mut self, stated: &Manifest) {
        let Some(inside) = &self.manifest else { return };
        let differences = inside.differences(stated, self.traits);
        let is_implicit = inside.builds_implicitly(self.traits) && !stated.states_install();
        for detail in differences {
            self.note(Finding::ManifestConfusion, &detail);
        }
        if is_implicit {
            self.note(Finding::ImplicitBuild, "npm builds its binding.gyp at install, which the packument does not state");
        }
    }

    /// Notes that the packument's manifest cannot be compared.
    pub fn note_unreadable_manifest(&mut self, error: &str) {
        self.note(Finding::ManifestConfusion, &format!("the packument's manifest is not usable: {error}"));
    }

    fn note(&mut self, finding: Finding, detail: &str) {
        let line = text::single_line(detail);
        let mut detail: String = line.chars().take(MAX_EVIDENCE_CHARS).collect();
        if detail.len() < line.len() {
            detail.push_str("...");
        }
        self.evidence.push(FindingEvidence { finding, detail });
    }
}

/// Opens a tarball.
pub fn inspect(tarball: &[u8], limits: ArchiveLimits) -> Inspection {
    let mut found = Inspection::default();
    let mut manifest: Option<Result<Manifest, String>> = None;
    let report = archive::read(tarball, limits, &mut |file: ArchiveFile<'_>| match file.path {
        "package.json" => manifest = Some(Manifest::parse(file.content)),
        "binding.gyp" => found.traits.has_gyp = true,
        "npm-shrinkwrap.json" => found.traits.has_shrinkwrap = true,
        _ => {}
    });
    found.evidence = report.flaws;
    match manifest {
        Some(Ok(manifest)) => found.manifest = Some(manifest),
        Some(Err(error)) => found.note(Finding::Unreadable, &format!("its package.json is not usable: {error}")),
        // What ended the reading is the reason then.
        None if found.evidence.is_empty() => found.note(Finding::Unreadable, "it has no package.json"),
        None => {}
    }
    (found.files, found.unpacked_bytes) = (report.files, report.unpacked_bytes);
    found
}
