//! The gzip layer of a tarball: its members, and what follows them.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Unpacks all members, as zlib does.
pub(super) struct GzipReader<'a> {
    member: Option<GzDecoder<&'a [u8]>>,
    /// The bytes after the last member that was read.
    rest: &'a [u8],
    pub members: u32,
    /// The bytes unpacked so far.
    pub unpacked: u64,
    pub limit: u64,
}

impl<'a> GzipReader<'a> {
    /// Unpacks at most `limit` bytes. Returns `None` if this is no gzip file.
    pub(super) fn new(tarball: &'a [u8], limit: u64) -> Option<Self> {
        let mut reader = Self { member: None, rest: tarball, members: 0, unpacked: 0, limit };
        reader.next_member().then_some(reader)
    }

    fn next_member(&mut self) -> bool {
        if !self.rest.starts_with(&MAGIC) {
            return false;
        }
        self.member = Some(GzDecoder::new(self.rest));
        self.members += 1;
        true
    }

    /// Returns the number of bytes after the last member.
    pub(super) fn trailing(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_over_limit(&self) -> bool {
        self.unpacked > self.limit
    }
}

impl Read for GzipReader<'_> {
    /// Fails with [`io::ErrorKind::FileTooLarge`] above the limit.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            self.unpacked += count as u64;
            if self.is_over_limit() {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some(member) = self.member.take() {
                self.rest = member.into_inner();
            }
            self.next_member();
        }
        Ok(0)
    }
}
