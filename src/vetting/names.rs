//! The names of signals and findings, as policies, logs and people have them. Refuses to know how one is found.

/// How much a signal says by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalStrength {
    /// Enough to hold a release: rare among honest ones.
    Strong,
    /// Enough together with another one.
    Weak,
}

/// Declares names, and the set of them as bits.
macro_rules! names {
    ($(#[$about:meta])* $name:ident, $(#[$set_about:meta])* $set:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every name.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name as it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What is written so.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        $(#[$set_about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $set(u32);

        impl $set {
            /// None of them.
            pub const NONE: Self = Self(0);

            /// Whether there is none.
            #[must_use]
            pub fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Those that are in both.
            #[must_use]
            pub fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Those that are in either.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// How many there are.
            #[must_use]
            pub fn count(self) -> u32 {
                self.0.count_ones()
            }

            /// Each of them, in the order of the names.
            pub fn iter(self) -> impl Iterator<Item = $name> {
                $name::ALL.iter().copied().filter(move |one| self.0 & (1 << *one as u32) != 0)
            }
        }

        impl FromIterator<$name> for $set {
            fn from_iter<I: IntoIterator<Item = $name>>(names: I) -> Self {
                Self(names.into_iter().fold(0, |bits, one| bits | 1 << one as u32))
            }
        }
    };
}

names! {
    /// What differs between a release and its predecessors.
    Signal,
    /// Signals of one release.
    Signals {
        /// It runs a script at install, and no release before it did.
        FirstInstallScript = "first-install-script",
        /// It gained a `binding.gyp`, which builds at install without a script.
        BindingGypAdded = "binding-gyp-added",
        /// It depends on a git repository or a URL, and its predecessor did not.
        RemoteDependencyAdded = "remote-dependency-added",
        /// Its predecessors carry provenance, and it does not.
        ProvenanceLost = "provenance-lost",
        /// Its predecessors came from a trusted publisher (CI), and it did not.
        TrustedPublisherLost = "trusted-publisher-lost",
        /// Its publisher never published this package before.
        NewPublisher = "new-publisher",
        /// It depends on a package that it never depended on before and that is young itself.
        NewbornDependency = "newborn-dependency",
        /// Its publisher has another address than before.
        PublisherEmailChanged = "publisher-email-changed",
        /// The package had no release for more than a year.
        Dormant = "dormant",
        /// Several release lines were published within an hour.
        ReleaseBurst = "release-burst",
        /// It is a multiple of its predecessor's size.
        SizeJump = "size-jump",
        /// Its maintainer deprecated it while it is young.
        DeprecatedYoung = "deprecated-young",
        /// Its number leaps ahead of all before it.
        VersionJump = "version-jump",
        /// The package's maintainers are others than before.
        MaintainersChanged = "maintainers-changed",
        /// Its predecessors name a commit, and it does not.
        CommitLost = "commit-lost",
        /// It was published with another tool than its predecessors.
        ToolChanged = "tool-changed",
        /// It pins a tree of its own (`npm-shrinkwrap.json`), and its predecessor did not.
        ShrinkwrapAdded = "shrinkwrap-added",
    }
}

names! {
    /// What opening a tarball showed.
    Finding,
    /// Findings of one tarball.
    Findings {
        /// Its `package.json` is not what the packument says.
        ManifestConfusion = "manifest-confusion",
        /// It holds a `binding.gyp` and no install script: npm builds it all the same.
        ImplicitBuild = "implicit-build",
        /// An advisory names the bytes themselves.
        AdvisedIntegrity = "advised-integrity",
        /// It cannot be opened.
        Unreadable = "unreadable",
    }
}

impl Signal {
    /// How much it says by itself: strong ones are rare among honest releases.
    #[must_use]
    pub fn strength(self) -> SignalStrength {
        match self {
            Self::FirstInstallScript
            | Self::BindingGypAdded
            | Self::RemoteDependencyAdded
            | Self::ProvenanceLost
            | Self::TrustedPublisherLost
            | Self::NewPublisher
            | Self::NewbornDependency => SignalStrength::Strong,
            Self::PublisherEmailChanged
            | Self::Dormant
            | Self::ReleaseBurst
            | Self::SizeJump
            | Self::DeprecatedYoung
            | Self::VersionJump
            | Self::MaintainersChanged
            | Self::CommitLost
            | Self::ToolChanged
            | Self::ShrinkwrapAdded => SignalStrength::Weak,
        }
    }
}

impl Signals {
    /// Every signal of a strength.
    #[must_use]
    pub fn of_strength(strength: SignalStrength) -> Self {
        Signal::ALL.iter().copied().filter(|signal| signal.strength() == strength).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
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
