//! Writes plain tar archives, as `npm pack` does. Shared by tests, properties, fuzz targets and benchmarks.

use std::io::Write;

const BLOCK: usize = 512;

/// Appends a file. Its path has at most 100 bytes. Writing must not fail, as to memory.
pub fn append(out: &mut impl Write, path: &str, content: &[u8]) {
    let mut header = [0; BLOCK];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = content.len().next_multiple_of(BLOCK) - content.len();
    for part in [&header[..], content, &[0; BLOCK][..padding]] {
        out.write_all(part).expect("writing to memory");
    }
}

/// Ends the archive.
pub fn end(out: &mut impl Write) {
    out.write_all(&[0; 2 * BLOCK]).expect("writing to memory");
}
