//! The attributes of a pax header: lines of `LENGTH KEY=VALUE`.

/// What a pax header changes of the entries after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxAttributes {
    pub path: Option<Vec<u8>>,
    pub link_target: Option<Vec<u8>>,
    pub size: Option<Vec<u8>>,
}

/// Parses a pax header. Fails if extractors could read it differently, with the reason.
pub(super) fn parse(mut data: &[u8]) -> Result<PaxAttributes, &'static str> {
    let mut found = PaxAttributes::default();
    while !data.is_empty() {
        let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = std::str::from_utf8(&data[..digits]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let Some(record) = length.and_then(|length| data.get(digits..length)) else {
            return Err("a pax record with a wrong length");
        };
        data = &data[digits + record.len()..];
        let Some((key, value)) = record
            .strip_prefix(b" ")
            .and_then(|record| record.strip_suffix(b"\n"))
            .and_then(|record| record.iter().position(|byte| *byte == b'=').map(|at| (&record[..at], &record[at + 1..])))
        else {
            return Err("a malformed pax record");
        };
        // node-tar splits the header into lines before it reads lengths.
        if value.contains(&b'\n') || value.contains(&0) {
            return Err("a pax value with a line break or zero byte");
        }
        let place = match key {
            b"path" => &mut found.path,
            b"linkpath" => &mut found.link_target,
            b"size" => &mut found.size,
            _ if key.starts_with(b"GNU.sparse") => return Err("a sparse file"),
            b"hdrcharset" => return Err("a pax character set"),
            _ => continue,
        };
        if place.replace(value.to_vec()).is_some() {
            return Err("a pax attribute that is given twice");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_by_their_length() {
        let found = parse(b"18 path=package/a\n20 mtime=1700000000\n11 size=27\n").unwrap();
        assert_eq!(found.path.as_deref(), Some(&b"package/a"[..]));
        assert_eq!(found.size.as_deref(), Some(&b"27"[..]));
        assert_eq!(parse(b""), Ok(PaxAttributes::default()));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_an_error() {
        for data in [
            &b"19 path=package/a\n"[..],
            b"17 path=package/a\n",
            b"path=package/a\n",
            b"99999999999999999999 path=a\n",
            b"0 path=a\n",
            b"18 path=package\na\n",
            b"9 path=a\n9 path=b\n",
            b"22 GNU.sparse.major=1\n",
            b"6 a\x00\n\x00",
        ] {
            assert!(parse(data).is_err(), "{}", String::from_utf8_lossy(data));
        }
    }
}
