//! Integrity (SRI) and shasum: the digests a tarball must match.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::text::words;

/// Digest algorithms in npm's `dist`, ordered from weakest to strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// Forty hex digits in `dist.shasum`; as SRI in old lockfiles.
    Sha1,
    Sha256,
    Sha384,
    /// npm's current default.
    Sha512,
}

words! { Algorithm { Sha1 = "sha1", Sha256 = "sha256", Sha384 = "sha384", Sha512 = "sha512", } }

impl Algorithm {
    fn digester(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn length(self) -> usize {
        self.digester().output_len()
    }
}

const MAX_DIGEST_BYTES: usize = 64;

/// Length of the longest digest in SRI form.
pub const MAX_SRI_BYTES: usize = "sha512-".len() + MAX_DIGEST_BYTES.div_ceil(3) * 4;

/// A digest of its algorithm's length. Inline, without heap memory: serving a cached tarball clones it a few times.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero after the algorithm's length.
    bytes: [u8; MAX_DIGEST_BYTES],
}

impl Digest {
    /// Returns a digest from its bytes, or `None` if the length is not the algorithm's.
    pub(crate) fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == algorithm.length()).then(|| Self::from_slice(algorithm, bytes))
    }

    pub(crate) fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let digits = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
        Self::from_bytes(algorithm, &digits.collect::<Option<Vec<_>>>()?)
    }

    fn from_slice(algorithm: Algorithm, given: &[u8]) -> Self {
        let mut bytes = [0; MAX_DIGEST_BYTES];
        bytes.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
        Self { algorithm, bytes }
    }

    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        Self::from_slice(algorithm, digest::digest(algorithm.digester(), bytes).as_ref())
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.length()]
    }

    /// Formats as lower-case hex.
    pub fn to_hex(&self) -> String {
        self.as_bytes()
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }

    pub fn to_sri(&self) -> String {
        let mut text = String::with_capacity(MAX_SRI_BYTES);
        self.write_sri(&mut text);
        text
    }

    pub(crate) fn write_sri(&self, text: &mut String) {
        text.push_str(self.algorithm.as_str());
        text.push('-');
        STANDARD.encode_string(self.as_bytes(), text);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.to_sri())
    }
}

/// All digests a packument states for a tarball, strongest first: at least one, at most one per algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Integrity(Arc<[Digest]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestComparison {
    /// They share an algorithm, and all shared digests are equal.
    Same,
    /// A shared algorithm has different digests.
    Different,
    /// They share no algorithm.
    Incomparable,
}

impl Integrity {
    /// Parses `dist.integrity` and `dist.shasum`. Either may be missing.
    ///
    /// Unknown algorithms are skipped, as SRI requires. Returns `None` if there is no digest, if one has the wrong length, or if
    /// one algorithm has two different digests (SRI allows that, npm never writes it).
    pub(crate) fn parse(sri: Option<&str>, shasum: Option<&str>) -> Option<Self> {
        let mut digests: Vec<Digest> = Vec::with_capacity(2);
        for entry in sri.unwrap_or_default().split_ascii_whitespace() {
            let (name, rest) = entry.split_once('-')?;
            let Some(algorithm) = Algorithm::parse(name) else { continue };
            let encoded = rest.split('?').next().unwrap_or_default();
            digests.push(Digest::from_bytes(algorithm, &STANDARD.decode(encoded).ok()?)?);
        }
        if let Some(hex) = shasum.filter(|hex| !hex.is_empty()) {
            digests.push(Digest::from_hex(Algorithm::Sha1, hex)?);
        }
        let digests = sorted(digests);
        let repeated = digests.windows(2).any(|pair| pair[0].algorithm == pair[1].algorithm);
        (!digests.is_empty() && !repeated).then(|| Self(digests.into()))
    }

    pub fn single(digest: Digest) -> Self {
        Self(Arc::new([digest]))
    }

    /// Returns the strongest digest. It decides, and the store keys tarballs by it.
    pub(crate) fn strongest(&self) -> &Digest {
        &self.0[0]
    }

    pub(crate) fn digest(&self, algorithm: Algorithm) -> Option<&Digest> {
        self.0.iter().find(|digest| digest.algorithm == algorithm)
    }

    /// Strongest first.
    pub(crate) fn digests(&self) -> &[Digest] {
        &self.0
    }

    /// Returns the digests of both, strongest first, or `None` if they contradict each other.
    pub(crate) fn union(&self, other: &Self) -> Option<Self> {
        if self.compare(other) == DigestComparison::Different {
            return None;
        }
        if other.0.iter().all(|digest| self.0.contains(digest)) {
            return Some(self.clone());
        }
        Some(Self(sorted(self.0.iter().chain(&*other.0).cloned().collect()).into()))
    }

    /// Checks whether all these digests are in `others`. Bytes that match `others` then match these too.
    pub(crate) fn is_covered_by(&self, others: &Self) -> bool {
        self.0.iter().all(|digest| others.0.contains(digest))
    }

    pub(crate) fn compare(&self, other: &Self) -> DigestComparison {
        let shared = self.0.iter().filter_map(|mine| other.digest(mine.algorithm).map(|their| mine == their));
        shared.fold(DigestComparison::Incomparable, |so_far, same| match (so_far, same) {
            (DigestComparison::Different, _) | (_, false) => DigestComparison::Different,
            (_, true) => DigestComparison::Same,
        })
    }

    /// Formats all digests as one SRI string, strongest first; [`Integrity::parse`] reads it back.
    pub(crate) fn to_sri(&self) -> String {
        self.0.iter().map(Digest::to_sri).collect::<Vec<_>>().join(" ")
    }
}

/// Sorts digests, strongest first, and removes duplicates.
fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable_by(|left, right| right.cmp(left));
    digests.dedup();
    digests
}

/// Hashes a byte stream with every algorithm of the expected [`Integrity`], and with further ones where needed.
pub struct Hasher {
    expected: Integrity,
    contexts: Vec<Context>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sha1Check {
    Plain,
    /// Bytes crafted to collide do not match. Slower.
    DetectCollisions,
}

enum Context {
    Plain(Algorithm, digest::Context),
    /// SHA-1 that yields a different digest for bytes crafted to collide.
    CollisionChecked(Box<sha1_checked::Sha1>),
}

impl Context {
    fn new(algorithm: Algorithm) -> Self {
        Self::Plain(algorithm, digest::Context::new(algorithm.digester()))
    }

    fn finish(self) -> Digest {
        match self {
            Self::Plain(algorithm, context) => Digest::from_slice(algorithm, context.finish().as_ref()),
            Self::CollisionChecked(sha1) => Digest::from_slice(Algorithm::Sha1, sha1.try_finalize().hash()),
        }
    }
}

impl Hasher {
    pub(crate) fn new(expected: Integrity) -> Self {
        let contexts = expected.digests().iter().map(|digest| Context::new(digest.algorithm)).collect();
        Self { expected, contexts }
    }

    /// Returns a hasher that compares with `expected` and computes every digest that a packument may state later.
    pub(crate) fn for_tarball(expected: Integrity, sha1: Sha1Check) -> Self {
        let context = |algorithm| match algorithm {
            Algorithm::Sha1 if sha1 == Sha1Check::DetectCollisions => Context::CollisionChecked(Box::default()),
            other => Context::new(other),
        };
        let stated = |algorithm| expected.digests().iter().any(|digest| digest.algorithm == algorithm);
        let always = |algorithm| algorithm != Algorithm::Sha384;
        let algorithms = Algorithm::ALL.iter().rev().copied();
        let contexts = algorithms.filter(|algorithm| always(*algorithm) || stated(*algorithm)).map(context).collect();
        Self { expected, contexts }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for context in &mut self.contexts {
            match context {
                Context::Plain(_, context) => context.update(bytes),
                Context::CollisionChecked(sha1) => sha1_checked::Digest::update(&mut **sha1, bytes),
            }
        }
    }

    /// Returns all computed digests, or the first expected digest that differs, with the actual one.
    pub(crate) fn finish(self) -> Result<Integrity, Mismatch> {
        let computed = sorted(self.contexts.into_iter().map(Context::finish).collect());
        for expected in self.expected.digests() {
            if let Some(actual) = computed.iter().find(|actual| actual.algorithm == expected.algorithm && *actual != expected) {
                return Err(Mismatch { expected: Box::new(expected.clone()), actual: Box::new(actual.clone()) });
            }
        }
        Ok(Integrity(computed.into()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, got {}", expected.to_sri(), actual.to_sri())]
pub struct Mismatch {
    pub expected: Box<Digest>,
    pub actual: Box<Digest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sri(algorithm: Algorithm, text: &str) -> String {
        Digest::of(algorithm, text.as_bytes()).to_sri()
    }

    #[test]
    fn union_has_all_digests_unless_they_contradict() {
        let single = |algorithm, bytes: &[u8]| Integrity::single(Digest::of(algorithm, bytes));
        let (weak, strong) = (single(Algorithm::Sha1, b"a"), single(Algorithm::Sha512, b"a"));
        let both = weak.union(&strong).unwrap();
        assert_eq!(both.strongest().algorithm(), Algorithm::Sha512);
        assert_eq!((strong.union(&weak), both.union(&weak)), (Some(both.clone()), Some(both.clone())));
        assert_eq!(both.union(&single(Algorithm::Sha1, b"b")), None);
        assert!(weak.is_covered_by(&both) && strong.is_covered_by(&both) && !both.is_covered_by(&strong));
    }

    #[test]
    fn digests_and_shasum_are_sorted_by_strength() {
        let shasum = Digest::of(Algorithm::Sha1, b"x").to_hex();
        let integrity =
            Integrity::parse(Some(&format!("{} {}", sri(Algorithm::Sha256, "x"), sri(Algorithm::Sha512, "x"))), Some(&shasum))
                .unwrap();
        assert_eq!(integrity.strongest().algorithm(), Algorithm::Sha512);
        assert_eq!(integrity.digests().len(), 3);
        assert_eq!(Integrity::parse(Some(&integrity.to_sri()), None), Some(integrity));
    }

    #[test]
    fn contradictory_or_invalid_integrity_is_none() {
        let two = format!("{} {}", sri(Algorithm::Sha512, "x"), sri(Algorithm::Sha512, "y"));
        assert_eq!(Integrity::parse(Some(&two), None), None);
        assert_eq!(Integrity::parse(Some("sha512-AAAA"), None), None);
        assert_eq!(Integrity::parse(None, None), None);
        assert_eq!(Integrity::parse(None, Some("zz")), None);
    }

    #[test]
    fn comparison_needs_a_shared_algorithm() {
        let both =
            Integrity::parse(Some(&sri(Algorithm::Sha512, "x")), Some(&Digest::of(Algorithm::Sha1, b"x").to_hex())).unwrap();
        let weak = Integrity::single(Digest::of(Algorithm::Sha1, b"x"));
        let other =
            Integrity::parse(Some(&sri(Algorithm::Sha512, "y")), Some(&Digest::of(Algorithm::Sha1, b"x").to_hex())).unwrap();
        let strong = Integrity::single(Digest::of(Algorithm::Sha512, b"x"));
        assert_eq!(both.compare(&weak), DigestComparison::Same);
        assert_eq!(both.compare(&other), DigestComparison::Different);
        assert_eq!(weak.compare(&strong), DigestComparison::Incomparable);
    }

    #[test]
    fn hasher_reports_the_digest_that_differs() {
        let integrity = Integrity::single(Digest::of(Algorithm::Sha512, b"tarball"));
        let mut right = Hasher::new(integrity.clone());
        right.update(b"tar");
        right.update(b"ball");
        assert!(right.finish().is_ok());
        let mut wrong = Hasher::new(integrity);
        wrong.update(b"tampered");
        assert_eq!(*wrong.finish().unwrap_err().actual, Digest::of(Algorithm::Sha512, b"tampered"));
    }

    /// The first of two published messages with one SHA-1 ("SHA-1 is a Shambles", 2020), base64.
    const COLLIDING: &str = concat!(
        "mQQNBH/oF4ABIAD/S2V5IGlzIHBhcnQgb2YgYSBjb2xsaXNpb24hIEl0J3MgYSB0cmFwIXnGGvCvzAVFFdknTnMHYksdx/sjmIu43otXXbp7",
        "nqsxwWdLbZdDeKgncy/1hRx2ouYHcrWkfOHqxAu5k8EtjHDiSk+NX83twbMsnPGeMa8kKXWdQuTf2zFxn1h2I+5VKTm23NxFn8pTVTtw+H7e",
        "MKJH6jr2x1mi8gsyDXYNtk/0eQhP08yzzdSDYtlqnEMGF8r/bDbGN+U/3ihBf2Jv7FTteUOkbl9XMPK7OPsd9uAJABDQDiSteL+SZBmTYI6N",
        "FYp4nzTEb+HmAn81pMv7gnB2xQ7KDot8ymm7LCt5Aln5v5Vw3Y1EN6MRX6/3w8rAmtJSZgVcJxBHVReOrv+CWiyqKs+13mTOdkHcWaVBqfyc",
        "dWdW4uI9xxPIwkyXkKprDjin9V8URSocooUN3ZVi/ZoYrUJJaqlwCPdGcvaO9GHriLCZM9YmtPkYdJzAJ/3dbEJfxCFoNdATTRUoW6sst4Sk",
        "98u0+1FNS/D2I3zwCp6fEyuaBm5v0X9sQph0eFhv9lGvlnR/tCa5hyuaiOQGP1m7M0zABlD4OoDEJ1G3GXTTAPwoGaLo8eMsG1HLGOa/xNub",
        "rvZ11Kr1sVdKBH+PbdLsFTqTQSKTl02Sj4jO2TY8/vl84udCvzTJa47zh1Z2/qXMqOX33qC6skE9TeAO5x7gHxYr220er9kl5q66rmo1TvF8",
        "8gWkBPvbEvxFTUH92VzyRZZkoq0DLR2mCnMmQHXX8eDWwUA656DYYd8/5XBxiN1eB9FYm5+LZjBVP4/DUrPgwn2oC926TGQCDQ==",
    );

    #[test]
    fn colliding_bytes_do_not_match_their_sha1() {
        let colliding = STANDARD.decode(COLLIDING).unwrap();
        let hashed = |bytes: &[u8], sha1| {
            let mut hasher = Hasher::for_tarball(Integrity::single(Digest::of(Algorithm::Sha1, bytes)), sha1);
            bytes.chunks(100).for_each(|chunk| hasher.update(chunk));
            hasher.finish()
        };
        assert!(hashed(&colliding, Sha1Check::Plain).is_ok());
        assert!(hashed(&colliding, Sha1Check::DetectCollisions).is_err());
        assert_eq!(hashed(b"tarball", Sha1Check::DetectCollisions), hashed(b"tarball", Sha1Check::Plain));
    }

    #[test]
    fn hasher_computes_every_digest_of_a_tarball() {
        let mut hasher = Hasher::for_tarball(Integrity::single(Digest::of(Algorithm::Sha384, b"tarball")), Sha1Check::Plain);
        hasher.update(b"tarball");
        let digests = hasher.finish().unwrap();
        for algorithm in [Algorithm::Sha512, Algorithm::Sha384, Algorithm::Sha256, Algorithm::Sha1] {
            assert_eq!(digests.digest(algorithm), Some(&Digest::of(algorithm, b"tarball")));
        }
    }
}
