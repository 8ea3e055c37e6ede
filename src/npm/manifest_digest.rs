//! What clients resolve by: a version's dependency maps, `bin` and install scripts, as one digest. Pure.

/// What a manifest makes clients install and link, as one digest, and whether it has install scripts.
///
/// The two forms of a packument state install scripts differently (`scripts` in the full one, `hasInstallScript` in the
/// abbreviated one), and registries do not always agree with themselves there: each form is compared with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestDigest {
    sha256: [u8; 32],
    scripts: u8,
}

impl ManifestDigest {
    /// The length of [`ManifestDigest::to_bytes`].
    pub const LENGTH: usize = 33;

    /// Reads what [`ManifestDigest::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[..32]);
        Self { sha256, scripts: bytes[32] }
    }

    /// The digest as the ledger keeps it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [self.scripts; Self::LENGTH];
        bytes[..32].copy_from_slice(&self.sha256);
        bytes
    }
}
