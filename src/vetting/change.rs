//! What a release changed in the files of its tarball. Facts; policy judges them.

use crate::vetting::behaviour::{is_changed, shown};
use crate::vetting::content::kind::NativeFormat;
use crate::vetting::content::marks::Mark;
use crate::vetting::contents::{ContentSummary, FileFacts, SummaryRow, TarballContents};
use crate::vetting::names::Finding;
use crate::vetting::surface::Surface;

/// The growth of a file of code that counts: this multiple, and this number of bytes at least.
const GROWTH_FACTOR: u64 = 10;
const MIN_GROWTH_BYTES: u64 = 20_000;

/// Files named in one text; further ones are counted.
const MAX_LISTED: usize = 5;

/// A file, and what the predecessor has at its path.
type Pair<'a> = (&'a FileFacts, Option<SummaryRow>);

/// Returns the differences from the predecessor, each with its evidence.
pub(crate) fn compare(contents: &TarballContents, before: &ContentSummary) -> Vec<(Finding, String)> {
    let pairs: Vec<Pair<'_>> = contents.files.iter().zip(contents.earlier(Some(before))).collect();
    let is_new_on = |(file, earlier): &Pair<'_>, surface: Surface| {
        file.surface.contains(surface) && earlier.is_none_or(|row| !row.surface.contains(surface))
    };
    let is_new_native = |(file, earlier): &Pair<'_>| {
        let had_any = match file.native {
            Some(NativeFormat::Wasm) => before.has_wasm,
            Some(_) => before.has_native,
            None => true,
        };
        !had_any && is_changed(file, *earlier)
    };
    // One readable file shows that the package is written to be read.
    let is_readable = !before.has_minified && contents.code().any(|(_, file)| file.traits.is_read && !file.traits.is_minified);
    let is_blob = |(file, earlier): &Pair<'_>| {
        let is_encoded = file.marks.contains(Mark::Blob) && !before.marks.contains(Mark::Blob);
        file.traits.is_code && earlier.is_none() && is_readable && (file.traits.is_minified || is_encoded)
    };
    let has_grown = |(file, earlier): &Pair<'_>| {
        let grew = |before: u64| {
            before > 0 && file.length >= before.saturating_mul(GROWTH_FACTOR) && file.length - before >= MIN_GROWTH_BYTES
        };
        file.traits.is_code && earlier.is_some_and(|row| grew(row.length))
    };
    let path = |(file, _): &Pair<'_>| shown(&file.path);
    let native = |(file, _): &Pair<'_>| {
        let format = file.native.map_or("", NativeFormat::as_str);
        format!("{} ({format})", shown(&file.path))
    };
    let grown = |(file, earlier): &Pair<'_>| {
        let before = earlier.map_or(0, |row| row.length);
        format!("{} from {before} to {} bytes", shown(&file.path), file.length)
    };
    let lists = [
        (Finding::InstallFileAdded, list(&pairs, &|pair| is_new_on(pair, Surface::INSTALL), &path)),
        (Finding::EntryFileAdded, list(&pairs, &|pair| is_new_on(pair, Surface::HEAD), &path)),
        (Finding::NativeCodeAdded, list(&pairs, &is_new_native, &native)),
        (Finding::BlobAdded, list(&pairs, &is_blob, &path)),
        (Finding::FileGrew, list(&pairs, &has_grown, &grown)),
    ];
    lists.into_iter().filter_map(|(finding, text)| Some((finding, text?))).collect()
}

/// Lists the files that differ; further ones are counted.
fn list(pairs: &[Pair<'_>], differs: &dyn Fn(&Pair<'_>) -> bool, text: &dyn Fn(&Pair<'_>) -> String) -> Option<String> {
    let found: Vec<&Pair<'_>> = pairs.iter().filter(|pair| differs(pair)).collect();
    if found.is_empty() {
        return None;
    }
    let texts: Vec<String> = found.iter().take(MAX_LISTED).map(|pair| text(pair)).collect();
    let rest = found.len().saturating_sub(MAX_LISTED);
    Some(if rest > 0 { format!("{}; {rest} more", texts.join(", ")) } else { texts.join(", ") })
}
