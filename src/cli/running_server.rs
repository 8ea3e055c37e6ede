//! Finds the server that runs on the data directory, for commands that ask it. Reports its policy and the settings that
//! differ on standard error.

use crate::app::{Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::say;
use crate::config::effective::OF_VERDICTS;
use crate::config::{Config, Diagnostics, SettingKey};

pub(crate) const SERVER_APPLIES: &str = "the value of the server applies";

pub(crate) struct Running {
    pub(crate) server: RemoteServer,
    pub(crate) profile: usize,
}

/// Finds the server that runs on the data directory of `config`. A server that cannot be asked is an error.
pub(crate) async fn find(config: &Config) -> anyhow::Result<Option<Running>> {
    match RemoteServer::find(&config.store.data_dir).await? {
        Owner::Server(server) => {
            let named = config.settings.effective.texts(SettingKey::Policy);
            let named = named.first().filter(|_| config.settings.is_set(SettingKey::Policy));
            let profile = named.and_then(|name| server.profile_named(name)).unwrap_or_else(|| server.first_profile());
            Ok(Some(Running { server: *server, profile }))
        }
        Owner::NoProcess => Ok(None),
        Owner::Silent => {
            say(&format!(
                "another coldframe, such as `coldframe run`, uses `{}` and cannot be asked; using the settings of this command",
                config.store.data_dir.display()
            ));
            Ok(None)
        }
    }
}

/// Finds the server like [`find`], and reports that it decides on verdicts.
pub(crate) async fn find_announced(config: &Config) -> anyhow::Result<Option<Running>> {
    let running = find(config).await?;
    Ok(running.inspect(|running| running.announce(config, OF_VERDICTS, SERVER_APPLIES)))
}

impl Running {
    /// Reports that the server answers, and which settings of this command differ. `applies` names those that the command uses.
    pub(crate) fn announce(&self, config: &Config, keys: &[SettingKey], applies: &str) {
        let server = &self.server;
        let place = server.url_of(self.profile).map(|url| format!(" at {url}")).unwrap_or_default();
        say(&format!("answered by the running server{place}, policy: {}", server.policy_words(self.profile)));
        for (_, deviation) in self.deviations(config, keys) {
            say(&format!("{deviation}; {applies}"));
        }
        let others = server.description.policies.iter().enumerate().filter(|(at, _)| *at != self.profile);
        for (at, policy) in others {
            if let Some(url) = server.url_of(at) {
                say(&format!("clients of {url} use another policy; select it with --policy {}", policy.name));
            }
        }
    }

    /// Returns the settings of this command that differ from the server's.
    pub(crate) fn deviations(&self, config: &Config, keys: &[SettingKey]) -> Vec<(SettingKey, String)> {
        let mut found = config.settings.deviations(&self.server.description.settings, keys);
        let chosen = config.settings.effective.texts(SettingKey::Policy);
        // Naming a policy of one of its listeners only selects it.
        if chosen.first().and_then(|name| self.server.profile_named(name)).is_some() {
            found.retain(|(key, _)| *key != SettingKey::Policy);
        }
        found
    }

    /// Returns the server's configuration with the credentials and CAs of this process, or `config` if it cannot be read here.
    pub(crate) fn config(&self, settings: &SettingFlags<false>, config: Config) -> Config {
        let server = &self.server.description.settings;
        settings.read(|sources| Config::load_with(sources, |raw| raw.0.extend(server.to_raw()))).unwrap_or_else(|error| {
            say(&format!("cannot use the settings of the server, using those of this command: {error}"));
            config
        })
    }

    /// Returns the server's configuration with overrides from this command.
    pub(crate) fn overridden_config(&self, settings: &SettingFlags<false>) -> Result<Config, Diagnostics> {
        let server = &self.server.description.settings;
        settings.read(|sources| Config::load_with(sources, |raw| raw.fill(server.to_raw())))
    }
}
