//! The names of signals and findings, as policies, logs and output spell them.

use serde_json::{Value, json};

use crate::npm::{Digest, Integrity};

/// How suspicious a signal is on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalStrength {
    /// Enough to hold a release: rare among honest releases.
    Strong,
    /// Enough only together with another signal.
    Weak,
}

/// Declares an enum of names and a set of them as a bit mask.
macro_rules! names {
    ($(#[$about:meta])* $name:ident, $(#[$set_about:meta])* $set:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        $crate::text::words! { $name { $($variant = $word,)* } }

        $(#[$set_about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $set(u32);

        impl $set {
            pub const NONE: Self = Self(0);

            pub fn all() -> Self {
                $name::ALL.iter().copied().collect()
            }

            pub fn contains(self, name: $name) -> bool {
                self.0 & (1 << name as u32) != 0
            }

            pub fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Returns the intersection.
            #[must_use]
            pub fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Returns the union.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Returns those that `other` lacks.
            #[must_use]
            pub fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            pub fn count(self) -> u32 {
                self.0.count_ones()
            }

            /// Iterates in declaration order.
            pub fn iter(self) -> impl Iterator<Item = $name> {
                $name::ALL.iter().copied().filter(move |name| self.contains(*name))
            }
        }

        impl From<$name> for $set {
            fn from(name: $name) -> Self {
                Self(1 << name as u32)
            }
        }

        impl FromIterator<$name> for $set {
            fn from_iter<I: IntoIterator<Item = $name>>(names: I) -> Self {
                Self(names.into_iter().fold(0, |bits, name| bits | 1 << name as u32))
            }
        }
    };
}

names! {
    /// A difference between a release and its predecessors.
    Signal,
    /// The signals of one release.
    Signals {
        /// It runs an install script, and no earlier release did.
        FirstInstallScript = "first-install-script",
        /// It added a `binding.gyp`, which triggers a build at install without a script.
        BindingGypAdded = "binding-gyp-added",
        /// It depends on a git repository, a URL or a file, and no earlier release did.
        RemoteDependencyAdded = "remote-dependency-added",
        /// All releases of the year before have provenance, and it does not.
        ProvenanceLost = "provenance-lost",
        /// All releases of the year before came from a trusted publisher (CI), and it did not.
        TrustedPublisherLost = "trusted-publisher-lost",
        /// It has a dependency that no earlier release had, and that package is itself recent or has install scripts.
        NewbornDependency = "newborn-dependency",
        /// Its predecessor has provenance, and it does not. Some packages are published in both ways.
        ProvenanceDropped = "provenance-dropped",
        /// Its predecessor came from a trusted publisher (CI), and it did not.
        CiToHuman = "ci-to-human",
        /// Its publisher never published this package before.
        NewPublisher = "new-publisher",
        /// It has a dependency that no earlier release had.
        NewDependency = "new-dependency",
        /// Its publisher's email address changed.
        PublisherEmailChanged = "publisher-email-changed",
        /// The package had no release for more than a year.
        Dormant = "dormant",
        /// Several release lines were published within an hour.
        ReleaseBurst = "release-burst",
        /// It has three times the bytes or files of its predecessor.
        SizeJump = "size-jump",
        /// It was deprecated while it was still new.
        DeprecatedYoung = "deprecated-young",
        /// Its version number is far above all earlier ones.
        VersionJump = "version-jump",
        /// It has a maintainer that no earlier release had.
        MaintainersChanged = "maintainers-changed",
        /// Its predecessors name a commit, and it does not.
        CommitLost = "commit-lost",
        /// It ships its own lockfile (`npm-shrinkwrap.json`), and no earlier release did.
        ShrinkwrapAdded = "shrinkwrap-added",
        /// It adds a command that no earlier release had.
        BinAdded = "bin-added",
        /// Its manifest names a repository that no earlier release named.
        RepositoryChanged = "repository-changed",
        /// The registry signed earlier releases, and upstream states no usable signature of it.
        SignatureLost = "signature-lost",
        /// Its provenance names another repository than that of earlier releases.
        ProvenanceRepositoryChanged = "provenance-repository-changed",
        /// Its provenance names another workflow of the same repository.
        ProvenanceWorkflowChanged = "provenance-workflow-changed",
        /// It came long after the release before, or among many of one day, compared with the package's usual pace.
        OffRhythm = "off-rhythm",
        /// A new publisher or a new dependency, and a name that resembles a popular package's.
        LookalikeName = "lookalike-name",
    }
}

names! {
    /// A fact found by opening a tarball.
    Finding,
    /// The findings of one tarball.
    Findings {
        /// Its `package.json` differs from the packument.
        ManifestConfusion = "manifest-confusion",
        /// It has a `binding.gyp` but no install script, so npm builds it at install, and the packument does not say so.
        ImplicitBuild = "implicit-build",
        /// An advisory lists its digest.
        AdvisedIntegrity = "advised-integrity",
        /// An advisory lists the digest of one of its files.
        AdvisedFile = "advised-file",
        /// It cannot be opened.
        Unreadable = "unreadable",
        /// It has paths or links that leave the package, or devices.
        UnsafeArchive = "unsafe-archive",
        /// Package managers could unpack it to different files.
        AmbiguousArchive = "ambiguous-archive",
        /// It unpacks to too many bytes or files.
        ArchiveBomb = "archive-bomb",
        /// It names a key of the registry, which did not sign this name, version and integrity.
        FalseSignature = "false-signature",
        /// Its provenance is for something else, or a trusted log or authority contradicts it.
        FalseProvenance = "false-provenance",
        /// It runs a file at install that its predecessor did not run.
        InstallFileAdded = "install-file-added",
        /// Its use begins at a file at which that of its predecessor did not: `bin`, `main`, `exports`, `module` or `browser`.
        EntryFileAdded = "entry-file-added",
        /// It has native programs or WebAssembly, and its predecessor has none.
        NativeCodeAdded = "native-code-added",
        /// It adds minified or encoded code, and its predecessor has only code that can be read.
        BlobAdded = "blob-added",
        /// A file of code is ten times as long as in its predecessor.
        FileGrew = "file-grew",
        /// It reads credentials or all of the environment, and uses the network.
        SecretsToNetwork = "secrets-to-network",
        /// It downloads something and runs it.
        DownloadAndRun = "download-and-run",
        /// It runs text that it decodes.
        RunsDecodedCode = "runs-decoded-code",
        /// It publishes packages, or changes repositories, with tokens that it finds.
        SelfPropagation = "self-propagation",
        /// Its code has characters that reorder text, or that no editor shows.
        HiddenUnicode = "hidden-unicode",
        /// Its code is obfuscated, or hides the address of a server.
        ObfuscatedCode = "obfuscated-code",
        /// What it runs at install does more than install scripts need.
        SuspiciousInstall = "suspicious-install",
    }
}

impl Findings {
    /// What feeds list.
    pub fn of_feeds() -> Self {
        [Finding::AdvisedIntegrity, Finding::AdvisedFile].into_iter().collect()
    }

    /// Facts about what changed since the predecessor's tarball.
    pub fn of_change() -> Self {
        use Finding as F;
        [F::InstallFileAdded, F::EntryFileAdded, F::NativeCodeAdded, F::BlobAdded, F::FileGrew].into_iter().collect()
    }

    /// What new or changed code does. `suspicious-install` is not among them.
    pub fn of_behaviour() -> Self {
        use Finding as F;
        let names =
            [F::SecretsToNetwork, F::DownloadAndRun, F::RunsDecodedCode, F::SelfPropagation, F::HiddenUnicode, F::ObfuscatedCode];
        names.into_iter().collect()
    }
}

/// Why a tarball has a finding. The text is one line and safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindingEvidence {
    pub finding: Finding,
    pub detail: String,
}

impl FindingEvidence {
    /// Formats as `manifest-confusion: name is "a", the packument says "b"`.
    pub(crate) fn describe(&self) -> String {
        format!("{}: {}", self.finding.as_str(), self.detail)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "finding": self.finding.as_str(), "detail": self.detail })
    }

    /// Returns the digest of the file that an advisory lists. It is the last word, because the path before it is the publisher's.
    pub(crate) fn listed_file(&self) -> Option<Digest> {
        let word = self.detail.rsplit(' ').next().filter(|_| self.finding == Finding::AdvisedFile)?;
        Integrity::parse(Some(word), None).map(|integrity| integrity.strongest().clone())
    }
}

impl Signal {
    /// Returns the strength: strong signals are rare among honest releases.
    pub fn strength(self) -> SignalStrength {
        match self {
            Self::FirstInstallScript
            | Self::BindingGypAdded
            | Self::RemoteDependencyAdded
            | Self::ProvenanceLost
            | Self::TrustedPublisherLost
            | Self::NewbornDependency
            | Self::ProvenanceRepositoryChanged => SignalStrength::Strong,
            Self::ProvenanceDropped
            | Self::CiToHuman
            | Self::NewPublisher
            | Self::NewDependency
            | Self::PublisherEmailChanged
            | Self::Dormant
            | Self::ReleaseBurst
            | Self::SizeJump
            | Self::DeprecatedYoung
            | Self::VersionJump
            | Self::MaintainersChanged
            | Self::CommitLost
            | Self::ShrinkwrapAdded
            | Self::BinAdded
            | Self::RepositoryChanged
            | Self::SignatureLost
            | Self::ProvenanceWorkflowChanged
            | Self::OffRhythm
            | Self::LookalikeName => SignalStrength::Weak,
        }
    }
}

impl Findings {
    /// Returns the findings that need the tarball. Others are known before it is downloaded.
    pub(crate) fn of_tarballs() -> Self {
        let is_inside = |finding: &Finding| !matches!(finding, Finding::FalseSignature | Finding::FalseProvenance);
        Finding::ALL.iter().copied().filter(is_inside).collect()
    }
}

impl Signals {
    /// Formats as a list with commas.
    pub(crate) fn describe(self) -> String {
        self.iter().map(Signal::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Returns all signals of a strength.
    pub fn of_strength(strength: SignalStrength) -> Self {
        Signal::ALL.iter().copied().filter(|signal| signal.strength() == strength).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for signal in Signal::ALL {
            assert_eq!(Signal::parse(signal.as_str()), Some(*signal));
        }
        assert_eq!(Finding::parse("manifest-confusion"), Some(Finding::ManifestConfusion));
        assert_eq!(Signal::parse("first-install-scripts"), None);
    }

    #[test]
    fn every_signal_is_strong_or_weak() {
        let (strong, weak) = (Signals::of_strength(SignalStrength::Strong), Signals::of_strength(SignalStrength::Weak));
        assert!(strong.and(weak).is_empty());
        assert_eq!((strong.count() + weak.count()) as usize, Signal::ALL.len());
        let both: Signals = [Signal::SizeJump, Signal::Dormant].into_iter().collect();
        assert_eq!(both.iter().collect::<Vec<_>>(), [Signal::Dormant, Signal::SizeJump]);
        assert_eq!(both.and(weak), both);
    }
}
