//! What README says of settings and exit codes is what the program does.

use std::process::Command;

const README: &str = include_str!("../../README.md");

#[test]
fn readme_holds_the_table_of_settings() {
    let (begin, end) = (
        "cargo test --test it readme` -->
",
        "<!-- end of settings -->",
    );
    let wanted = format!("{begin}{}{end}", coldframe::config::settings::table_markdown());
    let (before, after) = README.split_once(begin).expect("the mark where the table begins");
    let (_, after) = after.split_once(end).expect("the mark where it ends");
    if !README.contains(&wanted) && wants_update() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        std::fs::write(path, [before, &wanted, after].concat()).unwrap();
        return;
    }
    assert!(README.contains(&wanted), "README.md has an older table: `UPDATE_EXPECT=1 cargo test --test it readme`");
}

#[test]
fn readme_holds_the_exit_codes() {
    let help = Command::new(env!("CARGO_BIN_EXE_coldframe")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let codes = help.lines().skip_while(|line| !line.starts_with("Exit codes")).skip(1).take_while(|line| !line.is_empty());
    let mut found = 0;
    for line in codes {
        let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
        assert!(README.contains(&format!("| {code} | {meaning} |")), "README.md lacks `| {code} | {meaning} |`");
        found += 1;
    }
    assert!(found >= 5, "{help}");
}

#[test]
fn readme_names_both_commands() {
    for line in ["cargo run --release -- serve", "cargo test"] {
        assert!(README.lines().any(|known| known.trim_start().starts_with(line)), "{line}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the variable that expect-test reads too")]
fn wants_update() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}
