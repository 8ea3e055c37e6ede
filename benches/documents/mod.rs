//! Shared by the engine benchmarks: captured documents, a generated one, and timing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use coldframe::npm::PackageName;

const ROUNDS: usize = 9;

/// Returns the shortest time over all rounds, in milliseconds.
pub fn best<T>(mut work: impl FnMut() -> T) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    rounds.min().unwrap_or(Duration::ZERO).as_secs_f64() * 1e3
}

/// Returns the documents fetched by `just capture`, by name.
pub fn captured() -> Vec<(PackageName, Vec<u8>)> {
    let Ok(folder) = std::fs::read_dir("corpus") else { return Vec::new() };
    let mut found: Vec<_> = folder
        .flatten()
        .filter_map(|file| {
            let stem = file.path().file_stem()?.to_str()?.replace("%2f", "/");
            Some((PackageName::parse(&stem).ok()?, std::fs::read(file.path()).ok()?))
        })
        .collect();
    found.sort_by(|left, right| left.0.cmp(&right.0));
    found
}

/// Returns a generated packument with `versions` versions.
pub fn made_up(versions: usize) -> Vec<u8> {
    let manifests: Vec<_> = (0..versions)
        .map(|patch| {
            format!(
                r#""1.0.{patch}":{{"name":"demo","version":"1.0.{patch}","description":"a generated package","dependencies":{{"left-pad":"^{patch}.0.0"}},"scripts":{{"test":"x"}},"dist":{{"tarball":"https://registry.example/demo/-/demo-1.0.{patch}.tgz","shasum":"{:040x}"}}}}"#,
                patch * 7919
            )
        })
        .collect();
    format!(r#"{{"name":"demo","dist-tags":{{"latest":"1.0.0"}},"versions":{{{}}}}}"#, manifests.join(",")).into_bytes()
}
