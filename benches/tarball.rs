//! Times the inspection of tarballs on one core: a generated one of code, and files that are given
//! (`cargo bench --bench tarball -- FILE.tgz ...`).
#![expect(clippy::expect_used, reason = "a benchmark panics on errors")]
#![expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]
#![expect(clippy::cast_precision_loss, reason = "speeds are rounded")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use coldframe::vetting::archive::{self, ArchiveLimits};
use coldframe::vetting::inspect::inspect;

#[path = "../tests/it/tar.rs"]
mod tar;

/// The same allocator as in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;

fn main() {
    let paths = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let given: Vec<(String, Vec<u8>)> = paths.map(|path| (path.clone(), std::fs::read(path).expect("a tarball"))).collect();
    println!("{:<44} {:>9} {:>9} {:>9} {:>9} {:>7}", "tarball", "kB", "unpacked", "read ms", "vet ms", "MB/s");
    measure("generated", &generated());
    for (name, tarball) in &given {
        measure(name.rsplit('/').next().unwrap_or_default(), tarball);
    }
    let whole = |work: &dyn Fn(&[u8])| {
        let began = Instant::now();
        for (_, tarball) in &given {
            work(tarball);
        }
        began.elapsed()
    };
    if given.len() > 1 {
        let unpacked: u64 = given.iter().map(|(_, tarball)| inspect(tarball, ArchiveLimits::default()).unpacked_bytes).sum();
        let time = whole(&vet);
        println!("{} tarballs: {:.0} ms, {:.0} MB/s", given.len(), millis(time), unpacked as f64 / time.as_secs_f64() / 1e6);
    }
}

fn vet(tarball: &[u8]) {
    let mut inspection = inspect(tarball, ArchiveLimits::default());
    inspection.compare_contents(None);
    black_box(inspection.summary());
}

fn measure(name: &str, tarball: &[u8]) {
    let unpacked = inspect(tarball, ArchiveLimits::default()).unpacked_bytes;
    let read = best(|| drop(black_box(archive::read(tarball, ArchiveLimits::default(), &mut |_| {}))));
    let vetted = best(|| vet(tarball));
    let speed = unpacked as f64 / vetted.as_secs_f64() / 1e6;
    let (kilobytes, unpacked) = (tarball.len() / 1_000, unpacked / 1_000);
    println!("{name:<44} {kilobytes:>9} {unpacked:>9} {:>9.1} {:>9.1} {speed:>7.0}", millis(read), millis(vetted));
}

fn best(work: impl Fn()) -> Duration {
    let time = |_| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..ROUNDS).map(time).min().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Returns a tarball of about 4 MB of code in 200 files.
fn generated() -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for file in 0..200 {
        let mut code = String::from("'use strict';\nconst path = require('./path');\n");
        while code.len() < 80_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (name, other) = (state % 9_973, state >> 40);
            let body = format!("return path.join(options.v{other:x}, \"{state:x}\")");
            let _ = writeln!(code, "export function f{name:x}(options) {{\n  {body};\n}}");
        }
        tar::append(&mut out, &format!("package/lib/f{file}.js"), code.as_bytes());
    }
    tar::append(&mut out, "package/package.json", br#"{"name":"a","version":"1.0.0","main":"lib/f0.js"}"#);
    tar::end(&mut out);
    out.finish().expect("memory")
}
