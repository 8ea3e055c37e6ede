//! A configuration file that describes all settings and sets none.

use crate::config::settings::{DefaultValue, SETTINGS, Setting};
use crate::config::show::literal;
use crate::text::push_line;

const INTRODUCTION: &str = "\
# Settings of Coldframe. Start it with `coldframe serve --config FILE`; `coldframe config check FILE` reports errors.
# A setting is a commented line with its default. Remove the `#` to set another value. Flags and variables override this file.
";

/// Returns the content of a new file.
pub(crate) fn template() -> String {
    let mut text = INTRODUCTION.to_owned();
    for setting in &SETTINGS {
        text.push('\n');
        push_line!(text, "# {}", setting.help);
        push_line!(text, "{}", commented(setting));
    }
    text
}

/// Returns the line of a setting. Without a default, its value is a placeholder.
fn commented(setting: &Setting) -> String {
    let (value, note) = match setting.default {
        DefaultValue::Value(text) => (text, String::new()),
        DefaultValue::Absent(words) => (setting.kind.placeholder(), format!("  # default: {words}")),
    };
    let value = literal(setting.kind, value);
    let value = if setting.several { format!("[{value}]") } else { value };
    format!("#{} = {value}{note}", setting.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_valid_toml_without_its_hash() {
        let text = template();
        let uncommented: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(uncommented.len(), SETTINGS.len());
        for (line, setting) in uncommented.into_iter().zip(&SETTINGS) {
            let parsed = toml::from_str::<toml::Table>(line);
            assert!(parsed.is_ok_and(|table| table.contains_key(setting.name)), "{line}");
        }
    }
}
