//! Checks that README.md and the pages in `docs/` state what the program does.

use std::fmt::Write as _;
use std::process::Command;

const README: &str = include_str!("../../README.md");
const SETTINGS: Page = Page { path: "docs/settings.md", text: include_str!("../../docs/settings.md") };
const OPERATIONS: Page = Page { path: "docs/operations.md", text: include_str!("../../docs/operations.md") };

/// End of the comment before a generated table.
const BEGIN: &str = "written by `UPDATE_EXPECT=1 cargo test --test it readme` -->\n";

struct Page {
    path: &'static str,
    text: &'static str,
}

impl Page {
    /// Checks that the page has `table` between its two marks. With `UPDATE_EXPECT=1` an outdated table is replaced.
    fn assert_has(&self, table: &str, end: &str) {
        let wanted = format!("{BEGIN}{table}{end}");
        if self.text.contains(&wanted) {
            return;
        }
        let (before, after) = self.text.split_once(BEGIN).expect("the mark before the table");
        let (_, after) = after.split_once(end).expect("the mark after the table");
        assert!(wants_update(), "{} has an outdated table; run `UPDATE_EXPECT=1 cargo test --test it readme`", self.path);
        let path = format!("{}/{}", env!("CARGO_MANIFEST_DIR"), self.path);
        std::fs::write(path, [before, &wanted, after].concat()).unwrap();
    }
}

#[test]
fn settings_page_has_the_table_of_settings() {
    SETTINGS.assert_has(&coldframe::config::settings::table_markdown(), "<!-- end of settings -->");
}

#[test]
fn operations_page_has_the_exit_codes_of_the_help() {
    let help = Command::new(env!("CARGO_BIN_EXE_coldframe")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let codes = help.lines().skip_while(|line| !line.starts_with("Exit codes")).skip(1).take_while(|line| !line.is_empty());
    let mut table = "| code | meaning |\n|---|---|\n".to_owned();
    for line in codes {
        let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
        writeln!(table, "| {code} | {meaning} |").unwrap();
    }
    assert!(table.lines().count() >= 7, "{help}");
    OPERATIONS.assert_has(&table, "<!-- end of exit codes -->");
}

#[test]
fn readme_names_both_commands() {
    for line in ["cargo run --release -- serve", "cargo test"] {
        assert!(README.lines().any(|known| known.trim_start().starts_with(line)), "{line}");
    }
}

#[expect(clippy::disallowed_methods, reason = "expect-test reads the same variable")]
fn wants_update() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}
