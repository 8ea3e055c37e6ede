//! What each client unpacks from generated archives, compared with what vetting reads. An archive without flaws must be unpacked
//! by every client to exactly the files that were vetted.

use std::collections::BTreeMap;
use std::path::Path;

use coldframe::vetting::archive::{ArchiveLimits, read};
use coldframe::vetting::inspect::inspect;

use crate::harness::Scene;
use crate::package::{Package, days, gzip};
use crate::package_manager::{Project, Tool, fetch_clients};

const ARCHIVES: usize = 500;

/// Fewer archives without flaws would make the test worthless.
const LEAST_PLAIN: usize = 200;

type Files = BTreeMap<String, Vec<u8>>;

#[tokio::test]
async fn archives_without_flaws_are_unpacked_as_vetted_by_every_client() {
    let scene = Scene::open().await;
    scene.registry.absent("pnpm");
    let (mut dice, mut vetted, mut tarballs) = (Dice(0x2545_f491_4f6c_dd1d), BTreeMap::new(), BTreeMap::new());
    for number in 0..ARCHIVES {
        let name = format!("archive-{number}");
        let tarball = some_tarball(&mut dice, &name);
        let mut files = Files::new();
        read(&tarball, ArchiveLimits::default(), &mut |file| {
            files.insert(file.path.to_owned(), file.content.to_vec());
        });
        if inspect(&tarball, ArchiveLimits::default()).evidence.is_empty() {
            scene.publish(Package::new(&name, "1.0.0").aged(days(100)).packed(tarball.clone()));
            tarballs.insert(name.clone(), tarball);
            vetted.insert(name, files);
        }
    }
    assert!(vetted.len() >= LEAST_PLAIN, "only {} of {ARCHIVES} archives have no flaws", vetted.len());
    let dependencies: Vec<_> = vetted.keys().map(|name| (&**name, "1.0.0")).collect();
    for tool in Tool::ALL {
        let project = Project::new(tool, &dependencies);
        let output = project.run(&scene, &["install"]).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        for (name, files) in &vetted {
            let mut unpacked = Files::new();
            collect(&project.folder().join("node_modules").join(name), "", &mut unpacked);
            if unpacked != *files {
                let kept = fetch_clients().join(format!("{name}.tgz"));
                std::fs::write(&kept, &tarballs[name]).expect("write to target");
                assert_eq!(names(&unpacked), names(files), "{tool:?} unpacks other files of {}", kept.display());
                panic!("{tool:?} unpacks other content of {}", kept.display());
            }
        }
    }
}

fn names(files: &Files) -> Vec<&String> {
    files.keys().collect()
}

fn collect(folder: &Path, below: &str, files: &mut Files) {
    for entry in std::fs::read_dir(folder).expect("an unpacked package").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if entry.path().is_dir() {
            // Some clients put the commands and dependencies of a package into it.
            if name != "node_modules" {
                collect(&entry.path(), &path, files);
            }
        } else {
            files.insert(path, std::fs::read(entry.path()).expect("an unpacked file"));
        }
    }
}

/// Pseudorandom numbers, always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Builds an archive in one of the formats that packers use. Some have bytes changed at random.
fn some_tarball(dice: &mut Dice, name: &str) -> Vec<u8> {
    let root = match dice.below(20) {
        0 => "./package",
        1 => "package/.",
        2..8 => name,
        _ => "package",
    };
    let mut tar = Vec::new();
    if dice.one_in(4) {
        tar.extend(entry(dice, &format!("{root}/"), b'5', b""));
    }
    if dice.one_in(6) {
        tar.extend(entry(dice, "pax_global_header", b'g', b"52 comment=0123456789abcdef0123456789abcdef01234567\n"));
    }
    let manifest = format!(r#"{{"name":"{name}","version":"1.0.0"}}"#);
    tar.extend(entry(dice, &format!("{root}/package.json"), b'0', manifest.as_bytes()));
    for number in 0..dice.below(5) {
        let path = some_path(dice, number);
        let content = "x".repeat(usize::try_from(dice.below(1_500)).expect("small"));
        let kind = if dice.one_in(5) { 0 } else { b'0' };
        tar.extend(entry(dice, &format!("{root}/{path}"), kind, content.as_bytes()));
    }
    if dice.one_in(2) {
        change_bytes(dice, &mut tar);
    }
    let zeros = match dice.below(20) {
        0 => 0,
        1..4 => 512,
        4..8 => 9_216,
        _ => 1_024,
    };
    tar.resize(tar.len() + zeros, 0);
    gzip(&tar)
}

fn some_path(dice: &mut Dice, number: u64) -> String {
    match dice.below(7) {
        0 => format!("lib/{number}.js"),
        1 => format!("lib/deep/er/{number}.js"),
        2 => format!("{}/{number}.js", "long".repeat(40)),
        3 => format!("{}/{}/{number}.js", "folder".repeat(12), "folder".repeat(12)),
        4 => format!("ünïcode-{number}.txt"),
        5 => format!("with space {number} & 'quotes'.md"),
        _ => format!("{number}"),
    }
}

/// One entry, in one of the header formats. Paths that do not fit become pax attributes or a prefix.
fn entry(dice: &mut Dice, path: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut name, mut prefix) = (path.to_owned(), String::new());
    if path.len() > 100 {
        let split = path.match_indices('/').map(|(at, _)| at).find(|at| path.len() - at - 1 <= 100 && *at <= 155);
        if let Some(at) = split.filter(|_| dice.one_in(2)) {
            (prefix, name) = (path[..at].to_owned(), path[at + 1..].to_owned());
        } else {
            let mut records = (1..9_999).map(|length| format!("{length} path={path}\n"));
            let is_right = |record: &String| record.split(' ').next().is_some_and(|length| length == record.len().to_string());
            let record = records.find(is_right).expect("a length");
            out.extend(entry(dice, "PaxHeader/long", b'x', record.as_bytes()));
            name = path.bytes().take(60).filter(u8::is_ascii).map(char::from).collect();
        }
    }
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice([b"0000644\0", b"000755 \0", b"100644 \0"][usize::try_from(dice.below(3)).expect("small")]);
    let size = if dice.one_in(2) { format!("{:011o}\0", content.len()) } else { format!("{:011o} ", content.len()) };
    block[124..136].copy_from_slice(size.as_bytes());
    block[136..148].copy_from_slice(b"14000000000\0");
    block[156] = kind;
    if !prefix.is_empty() || !dice.one_in(4) {
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    } else if dice.one_in(2) {
        block[257..265].copy_from_slice(b"ustar  \0");
    }
    sum(&mut block);
    out.extend(block);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block[..512].iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Changes a few bytes of some headers, with a checksum that fits.
fn change_bytes(dice: &mut Dice, tar: &mut [u8]) {
    let blocks = tar.len() / 512;
    for _ in 0..=dice.below(3) {
        let at = 512 * usize::try_from(dice.below(blocks as u64)).expect("small");
        let block = &mut tar[at..at + 512];
        if block[148..156].iter().all(|byte| byte.is_ascii_digit() || *byte == 0 || *byte == b' ') && block[0] != 0 {
            let place = usize::try_from(dice.below(512)).expect("small");
            block[place] = [0, b' ', b'0', b'7', b'/', b'.', 0x80, 0xff][usize::try_from(dice.below(8)).expect("small")];
            sum(block);
        }
    }
}
