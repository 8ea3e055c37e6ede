//! Command-line flags for all settings. Combines them with the environment and the configuration file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, FromArgMatches};

use crate::cli::output::OutputArgs;
use crate::config::settings::{SETTINGS, Setting};
use crate::config::{self, Config, ConfigSources, Diagnostics, ProcessEnvironment, RawConfig, SettingKey, ValueKind};

/// The settings listed in the help of commands that answer a question. Those commands accept all others too.
const LISTED_SETTINGS: &[SettingKey] =
    &[SettingKey::Upstream, SettingKey::MinReleaseAge, SettingKey::Exclude, SettingKey::DataDir, SettingKey::Feed];

/// Every setting as a flag, and `--config`. Help lists all of them if `LISTED` is set.
#[derive(Debug, Clone)]
pub(crate) struct SettingFlags<const LISTED: bool> {
    file: Option<PathBuf>,
    flags: RawConfig,
}

#[derive(Debug, clap::Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) settings: SettingFlags<false>,
}

impl<const LISTED: bool> SettingFlags<LISTED> {
    /// Removes and returns the value of `--feed` that is an advisory id (`MAL-2026-2307`) and not an existing file.
    pub(crate) fn take_advisory_id(&mut self) -> Option<String> {
        let is_id = |text: &str| {
            let prefix = text.split('-').next().unwrap_or_default();
            let named = prefix.len() < text.len() && prefix.starts_with(|letter: char| letter.is_ascii_uppercase());
            named && !text.contains(['/', '\\']) && !std::path::Path::new(text).exists()
        };
        let values = self.flags.0.get_mut(&SettingKey::Feed)?;
        let at = values.iter().position(|value| is_id(&value.text))?;
        let id = values.remove(at).text;
        self.flags.0.retain(|_, values| !values.is_empty());
        Some(id)
    }

    /// Returns `--data-dir`, `--config` and the flags of `keys` as words of a shell, each after a space.
    pub(crate) fn repeated(&self, keys: &[SettingKey]) -> String {
        let file = self.file.iter().flat_map(|file| ["--config".to_owned(), file.display().to_string()]);
        let words = self.flags.words(&[keys, &[SettingKey::DataDir]].concat()).into_iter().chain(file);
        words.map(|word| [" ", &quoted(&word)].concat()).collect()
    }

    /// Returns flags with `--upstream` alone, if given.
    pub(crate) fn of_upstream(upstream: Option<&str>) -> Self {
        let mut flags = RawConfig::default();
        if let Some(url) = upstream {
            flags.push_flag(SettingKey::Upstream, url.to_owned());
        }
        Self { file: None, flags }
    }

    pub(crate) fn first_flag_outside(&self, known: &[SettingKey]) -> Option<String> {
        self.flags.0.keys().find(|key| !known.contains(key)).map(|key| key.setting().flag())
    }

    pub(crate) fn config(&self) -> Result<Config, Diagnostics> {
        self.read(Config::load)
    }

    /// Reads the data directory alone, for commands that need no other setting.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Diagnostics> {
        self.read(config::data_dir)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(ConfigSources<'_>) -> Result<T, Diagnostics>) -> Result<T, Diagnostics> {
        #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read and handed down")]
        let surroundings = ProcessEnvironment {
            variables: std::env::vars_os().collect(),
            home: std::env::home_dir(),
            working_directory: std::env::current_dir().unwrap_or_default(),
        };
        read(ConfigSources { file: self.file.as_deref(), environment: &surroundings, flags: self.flags.clone() })
    }
}

impl<const LISTED: bool> FromArgMatches for SettingFlags<LISTED> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = RawConfig::default();
        for setting in &SETTINGS {
            for text in matches.get_many::<String>(setting.name).into_iter().flatten() {
                flags.push_flag(setting.key, text.clone());
            }
        }
        Ok(Self { file: matches.get_one::<PathBuf>("config").cloned(), flags })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const LISTED: bool> clap::Args for SettingFlags<LISTED> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read settings from a TOML file [env: COLDFRAME_CONFIG]");
        let settings = SETTINGS.iter().map(|setting| flag(setting).hide(!LISTED && !LISTED_SETTINGS.contains(&setting.key)));
        command.next_help_heading("Settings").arg(file).args(settings)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn flag(setting: &Setting) -> Arg {
    let several = if setting.several { "; may be repeated" } else { "" };
    let help = format!("{}{several} [default: {}]", setting.help, setting.default.text());
    let flag = Arg::new(setting.name).long(setting.name).value_name(setting.kind.placeholder()).help(help);
    match setting.kind {
        ValueKind::Truth => flag.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ if setting.several => flag.action(ArgAction::Append),
        _ => flag.action(ArgAction::Set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::effective::OF_VERDICTS;

    #[test]
    fn repeated_flags_are_quoted_for_a_shell() {
        let mut flags = RawConfig::default();
        flags.push_flag(SettingKey::DataDir, "/data of ours".to_owned());
        flags.push_flag(SettingKey::MinReleaseAge, "30d".to_owned());
        flags.push_flag(SettingKey::Exclude, "@acme/*".to_owned());
        flags.push_flag(SettingKey::LogLevel, "debug".to_owned());
        let given = SettingFlags::<false> { file: Some("it's.toml".into()), flags };
        assert_eq!(given.repeated(&[]), r" --data-dir '/data of ours' --config 'it'\''s.toml'");
        let all = r" --min-release-age 30d --exclude '@acme/*' --data-dir '/data of ours' --config 'it'\''s.toml'";
        assert_eq!(given.repeated(OF_VERDICTS), all);
    }
}
