//! Opens a tarball and says what it holds. Pure, and bounded in memory; never runs anything.

use crate::npm::{Algorithm, Digest};
use crate::text;
use crate::vetting::archive::{self, ArchiveFile, ArchiveLimits};
use crate::vetting::behaviour::shown;
use crate::vetting::contents::{ContentSummary, FileFacts, TarballContents};
use crate::vetting::manifest::{Manifest, TarballTraits};
use crate::vetting::names::{Finding, FindingEvidence, Findings};
use crate::vetting::{behaviour, change};

/// Changes with what [`inspect`] finds, so that stored results of an older build are made again.
pub const INSPECTION_VERSION: u32 = 3;

/// The longest text of a piece of evidence, in characters.
const MAX_EVIDENCE_CHARS: usize = 500;

/// Listed files that are named. One is enough to refuse a tarball.
const MAX_LISTED_FILES: usize = 4;

/// What a tarball holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    pub evidence: Vec<FindingEvidence>,
    /// `None` if it has no readable `package.json`.
    pub manifest: Option<Manifest>,
    pub traits: TarballTraits,
    pub files: usize,
    pub unpacked_bytes: u64,
    /// Which earlier tarball it was compared with.
    pub baseline: ContentBaseline,
    /// Whether the release is so old that no rule judges what the comparison found.
    pub is_past_rules: bool,
    pub(crate) contents: TarballContents,
}

/// The tarball of an earlier release that a tarball was compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ContentBaseline {
    /// No comparison was asked for.
    #[default]
    Unknown,
    /// There is no earlier release, so all files are new.
    None,
    Compared(Box<str>),
    /// The tarball of this version could not be had or read.
    Unavailable(Box<str>, String),
}

impl ContentBaseline {
    /// Continues a line of output. Returns `None` if there is nothing to say.
    pub fn describe(&self) -> Option<String> {
        match self {
            Self::Unknown => None,
            Self::None => Some("compared with no earlier release".to_owned()),
            Self::Compared(version) => Some(format!("compared with {version}")),
            Self::Unavailable(version, why) => Some(format!("not compared with {version}: {why}")),
        }
    }
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

    /// Adds the findings that depend on the tarball of an earlier release: a version and its summary. Without one, all files count
    /// as new.
    pub fn compare_contents(&mut self, before: Option<(&str, &ContentSummary)>) {
        let (version, before) = before.unzip();
        let changes = before.map(|before| change::compare(&self.contents, before)).unwrap_or_default();
        let since = version.map(|version| format!("; compared with {version}")).unwrap_or_default();
        for (finding, detail) in changes.into_iter().chain(behaviour::judge(&self.contents, before)) {
            self.note(finding, &format!("{detail}{since}"));
        }
        self.baseline = version.map_or(ContentBaseline::None, |version| ContentBaseline::Compared(version.into()));
    }

    /// Adds a finding for each file that an advisory lists. `find` returns the advisory that lists a digest, in words.
    pub fn compare_files(&mut self, find: impl Fn(&Digest) -> Option<String>) {
        let digests = |file: &FileFacts| {
            let sha1 = file.sha1.and_then(|sha1| Digest::from_bytes(Algorithm::Sha1, &sha1));
            Digest::from_bytes(Algorithm::Sha256, &file.digest).into_iter().chain(sha1)
        };
        let listed = |file: &FileFacts| {
            let (digest, advisory) = digests(file).find_map(|digest| find(&digest).map(|advisory| (digest, advisory)))?;
            Some(format!("{}: {advisory} lists its digest {}", shown(&file.path), digest.to_sri()))
        };
        // A record may list a licence too, which honest packages have.
        let may_run = |file: &&FileFacts| file.traits.is_code || file.native.is_some();
        let found: Vec<String> = self.contents.files.iter().filter(may_run).filter_map(listed).take(MAX_LISTED_FILES).collect();
        for detail in &found {
            self.note(Finding::AdvisedFile, detail);
        }
    }

    /// Returns what a later release is compared with. Returns `None` if the tarball could not be read or has too many files.
    pub fn summary(&self) -> Option<ContentSummary> {
        self.manifest.as_ref().and_then(|_| self.contents.summary())
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
    let mut found = Inspection { contents: TarballContents::new(limits), ..Inspection::default() };
    let mut manifest: Option<Result<Manifest, String>> = None;
    let mut is_kept = true;
    let report = archive::read(tarball, limits, &mut |file: ArchiveFile<'_>| {
        match file.path {
            "package.json" => manifest = Some(Manifest::parse(file.content)),
            "binding.gyp" => found.traits.has_gyp = true,
            "npm-shrinkwrap.json" => found.traits.has_shrinkwrap = true,
            _ => {}
        }
        is_kept &= found.contents.add(&file);
    });
    found.evidence = report.flaws;
    if !is_kept {
        found.note(Finding::ArchiveBomb, &format!("its paths are longer than {} KiB", limits.path_bytes >> 10));
    }
    match manifest {
        Some(Ok(manifest)) => {
            found.contents.place(&manifest.entry_points, manifest.builds(found.traits));
            found.manifest = Some(manifest);
        }
        Some(Err(error)) => found.note(Finding::Unreadable, &format!("its package.json is not usable: {error}")),
        // What ended the reading is the reason then.
        None if found.evidence.is_empty() => found.note(Finding::Unreadable, "it has no package.json"),
        None => {}
    }
    (found.files, found.unpacked_bytes) = (report.files, report.unpacked_bytes);
    found
}
