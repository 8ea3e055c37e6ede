//! The server that runs on the data directory, for commands that answer for it: finds it, says on standard error that it answers and by
//! which policy, and where settings of this command would mean another one.

use crate::app::{Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::CliError;
pub(crate) use crate::cli::output::say;
use crate::config::effective::{Deviation, OF_VERDICTS};
use crate::config::{Config, SettingKey};

/// A server that runs, and which of its policies is meant.
pub(crate) struct Running {
    pub(crate) server: RemoteServer,
    pub(crate) profile: usize,
}

/// Finds the server that runs on the data directory of `config`; `None` where none does.
///
/// # Errors
/// When there is one that cannot be asked.
pub(crate) async fn find(config: &Config) -> Result<Option<Running>, CliError> {
    match RemoteServer::find(&config.store.data_dir).await? {
        Owner::Server(server) => {
            let named = config.settings.effective().texts(SettingKey::Policy);
            let named = named.first().filter(|_| config.settings.is_written(SettingKey::Policy));
            let profile = named.and_then(|name| server.profile_named(name)).unwrap_or_else(|| server.first_profile());
            Ok(Some(Running { server: *server, profile }))
        }
        Owner::NoProcess => Ok(None),
        Owner::Silent => {
            say(&format!(
                "another coldframe uses `{}` and answers no questions (a `coldframe run` of its own does not): the settings of this \
                 command count",
                config.store.data_dir.display()
            ));
            Ok(None)
        }
    }
}

impl Running {
    /// Says that the server answers, and which settings of this command it does not go by.
    pub(crate) fn announce(&self, config: &Config, keys: &[SettingKey]) {
        self.announce_with(config, keys, "for the server, whose value counts");
    }

    /// The same where the settings of this command count.
    pub(crate) fn announce_beside(&self, config: &Config, keys: &[SettingKey]) {
        self.announce_with(config, keys, "for the server: this command goes by its own");
    }

    fn announce_with(&self, config: &Config, keys: &[SettingKey], counts: &str) {
        let server = &self.server;
        let place = server.url_of(self.profile).map(|url| format!(" at {url}")).unwrap_or_default();
        say(&format!("the running server{place} answers, by its policy: {}", server.policy_words(self.profile)));
        for Deviation { key, origin, here, there } in self.deviations(config, keys) {
            let name = key.setting().name;
            say(&format!("{origin}: `{name}` is {here} here and {there} {counts}"));
        }
        let others = server.description().policies.iter().enumerate().filter(|(at, _)| *at != self.profile);
        for (at, policy) in others {
            if let Some(url) = server.url_of(at) {
                say(&format!("clients of {url} have another policy: --policy {}", policy.name));
            }
        }
    }

    /// The settings of this command that the server does not go by.
    pub(crate) fn deviations(&self, config: &Config, keys: &[SettingKey]) -> Vec<Deviation> {
        let mut found = config.settings.deviations(&self.server.description().settings, keys);
        // A policy that one of its addresses has is a choice among its policies.
        let chosen = config.settings.effective().texts(SettingKey::Policy);
        found.retain(|found| {
            found.key != SettingKey::Policy || chosen.first().and_then(|name| self.server.profile_named(name)).is_none()
        });
        found
    }

    /// The configuration of the server, with the credentials and authorities of this process; `config` where it cannot be read here.
    pub(crate) fn config(&self, settings: &SettingFlags<false>, config: Config) -> Config {
        self.config_with(settings, false).unwrap_or_else(|wrong| {
            say(&format!("the server's settings cannot be used here, those of this command count: {:#}", wrong.cause));
            config
        })
    }

    /// The server's configuration with the settings of this command before its own; `config` where it cannot be read here.
    pub(crate) fn config_beside(&self, settings: &SettingFlags<false>, config: Config) -> Config {
        self.config_with(settings, true).unwrap_or(config)
    }

    /// The configuration that the server would have with the settings of this command; `None` where they change no verdict.
    pub(crate) fn changed_config(&self, settings: &SettingFlags<false>, config: &Config) -> Option<Config> {
        if self.deviations(config, OF_VERDICTS).is_empty() {
            return None;
        }
        self.config_with(settings, true).ok()
    }

    fn config_with(&self, settings: &SettingFlags<false>, own_first: bool) -> Result<Config, CliError> {
        let of_server = &self.server.description().settings;
        Ok(settings.clone().read(|sources| Config::gather_like(sources, of_server, own_first))?)
    }
}
