//! One header of a tar archive: 512 bytes with the name, type and size of the entry that follows.

/// The length of headers and the unit of padding, in bytes.
pub(super) const BLOCK: usize = 512;

pub(super) struct Header<'a>(pub &'a [u8; BLOCK]);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    /// A symbolic or hard link.
    Link,
    /// A device or a pipe.
    Device,
    /// Attributes of the next entry, or of all further ones.
    Pax,
    GlobalPax,
    /// The path or link target of the next entry, as GNU tar writes it.
    GnuLongName,
    /// A type that extractors treat differently.
    Other(u8),
}

impl Header<'_> {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Checks the sum of all bytes, with the field of the sum itself read as blanks.
    pub(super) fn has_valid_checksum(&self) -> bool {
        let sum: u64 =
            self.0.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
        octal(&self.0[148..156]) == Some(sum)
    }

    /// Returns the size in bytes. Returns `None` unless it is plain octal: pnpm does not read GNU tar's binary numbers.
    pub(super) fn size(&self) -> Option<u64> {
        octal(&self.0[124..136])
    }

    /// Checks whether mode, owner and time are numbers. pnpm 12 refuses an archive in which one is not. Large owners and times may be
    /// binary.
    pub(super) fn has_numbers(&self) -> bool {
        let is_number = |field: &[u8]| field[0] & 0x80 != 0 || octal(field).is_some();
        octal(&self.0[100..108]).is_some() && [108..116, 116..124, 136..148].into_iter().all(|field| is_number(&self.0[field]))
    }

    /// Checks whether all extractors recognize the format. The oldest one has no name, and no entries that describe others.
    pub(super) fn has_known_format(&self) -> bool {
        match &self.0[257..265] {
            b"ustar\x0000" | b"ustar  \0" => true,
            [0, 0, 0, 0, 0, 0, 0, 0] => matches!(self.kind(), EntryKind::File | EntryKind::Directory | EntryKind::Link),
            _ => false,
        }
    }

    pub(super) fn kind(&self) -> EntryKind {
        match self.0[156] {
            b'0' | 0 => EntryKind::File,
            b'1' | b'2' => EntryKind::Link,
            b'3' | b'4' | b'6' => EntryKind::Device,
            b'5' => EntryKind::Directory,
            b'x' => EntryKind::Pax,
            b'g' => EntryKind::GlobalPax,
            b'L' | b'K' => EntryKind::GnuLongName,
            other => EntryKind::Other(other),
        }
    }

    pub(super) fn link_target(&self) -> &[u8] {
        until_nul(&self.0[157..257])
    }

    /// Returns the path. Returns `None` if extractors disagree whether it has a prefix: only the standard format has one, and GNU
    /// tar writes other things there.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        let (prefix, name) = (until_nul(&self.0[345..500]), self.name());
        if prefix.is_empty() {
            // With this byte set, node-tar puts `/` before the path, which moves the file into a folder of the package.
            return (self.0[475] == 0).then(|| name.to_vec());
        }
        (&self.0[257..265] == b"ustar\x0000").then(|| [prefix, name].join(&b'/'))
    }

    /// Returns the path without its prefix.
    pub(super) fn name(&self) -> &[u8] {
        until_nul(&self.0[..100])
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses an octal number with blanks before it and blanks or zeros after it. An empty field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
    let (number, rest) = field[start..].split_at(digits);
    let is_padding = rest.iter().all(|byte| matches!(byte, 0 | b' '));
    // Twelve octal digits fit in 36 bits.
    is_padding.then(|| number.iter().fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_octal() {
        for (field, value) in
            [(&b"0000644\0"[..], Some(0o644)), (b"   17 \0\0", Some(15)), (b"\0\0\0", Some(0)), (b"  ", Some(0))]
        {
            assert_eq!(octal(field), value, "{field:?}");
        }
        for field in [&b"\x80\0\0\x01"[..], b"12 3", b"8", b"-1", b"0x10", b"1\x002"] {
            assert_eq!(octal(field), None, "{field:?}");
        }
    }

    #[test]
    fn prefix_counts_only_where_all_extractors_agree() {
        let mut block = [0; BLOCK];
        block[..5].copy_from_slice(b"a.js\0");
        block[345..352].copy_from_slice(b"package");
        assert_eq!(Header(&block).path(), None);
        block[257..265].copy_from_slice(b"ustar\x0000");
        assert_eq!(Header(&block).path().as_deref(), Some(&b"package/a.js"[..]));
        // node-tar writes times behind a prefix that is shorter than 131 bytes.
        block[480] = b'1';
        assert_eq!(Header(&block).path().as_deref(), Some(&b"package/a.js"[..]));
        block[345..352].fill(0);
        assert_eq!(Header(&block).path().as_deref(), Some(&b"a.js"[..]));
        block[475] = b'/';
        assert_eq!(Header(&block).path(), None);
        assert_eq!(Header(&[0; BLOCK]).path().as_deref(), Some(&b""[..]));
    }
}
