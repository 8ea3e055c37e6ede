//! Recognizes native programs by their first bytes. Names prove nothing: an attacker chooses them.

/// A format that runs as native code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NativeFormat {
    Elf,
    Pe,
    MachO,
    Wasm,
}

impl NativeFormat {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "ELF",
            Self::Pe => "PE",
            Self::MachO => "Mach-O",
            Self::Wasm => "WebAssembly",
        }
    }

    /// Returns the format of a file by its magic bytes.
    pub(crate) fn detect(content: &[u8]) -> Option<Self> {
        let head: [u8; 4] = *content.first_chunk()?;
        match head {
            [0x7f, b'E', b'L', b'F'] => Some(Self::Elf),
            [0, b'a', b's', b'm'] => Some(Self::Wasm),
            [0xfe, 0xed, 0xfa, 0xce | 0xcf] | [0xce | 0xcf, 0xfa, 0xed, 0xfe] => Some(Self::MachO),
            // Java classes have the same magic; their version begins at 45.
            [0xca, 0xfe, 0xba, 0xbe | 0xbf] => (u32_at(content, 4, u32::from_be_bytes)? < 45).then_some(Self::MachO),
            // `MZ` alone can begin a script.
            [b'M', b'Z', ..] => {
                let at = usize::try_from(u32_at(content, 0x3c, u32::from_le_bytes)?).ok()?;
                (content.get(at..at.checked_add(4)?)? == b"PE\0\0").then_some(Self::Pe)
            }
            _ => None,
        }
    }
}

fn u32_at(content: &[u8], at: usize, read: fn([u8; 4]) -> u32) -> Option<u32> {
    content.get(at..)?.first_chunk().copied().map(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_formats_are_known_by_magic_and_not_by_name() {
        let mut pe = vec![0; 0x80];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x40;
        pe[0x40..0x44].copy_from_slice(b"PE\0\0");
        assert_eq!(NativeFormat::detect(&pe), Some(NativeFormat::Pe));
        assert_eq!(NativeFormat::detect(b"\x7fELF\x02\x01"), Some(NativeFormat::Elf));
        assert_eq!(NativeFormat::detect(b"\0asm\x01\0\0\0"), Some(NativeFormat::Wasm));
        assert_eq!(NativeFormat::detect(b"\xcf\xfa\xed\xfe\0\0\0\0"), Some(NativeFormat::MachO));
        assert_eq!(NativeFormat::detect(b"\xca\xfe\xba\xbe\0\0\0\x02"), Some(NativeFormat::MachO));
        assert_eq!(NativeFormat::detect(b"\xca\xfe\xba\xbe\0\0\0\x3d"), None);
        for text in [&b"MZ=1;"[..], b"MZ", b"", b"#!/bin/sh"] {
            assert_eq!(NativeFormat::detect(text), None, "{text:?}");
        }
        let mut far = pe.clone();
        far[0x3c..0x40].fill(0xff);
        assert_eq!(NativeFormat::detect(&far), None);
    }
}
