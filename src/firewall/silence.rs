//! Registries that say nothing, learnt from whoever waited for one in vain, so that the others need not wait as well. Refuses to ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::npm::instant;

/// How long nobody waits for a registry that was silent: then somebody does again, in case nothing is under way that would hear it.
const LASTS: Duration = Duration::from_secs(10);

/// What was heard of each registry, by its id.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<HashMap<Arc<str>, Heard>>);

#[derive(Debug, Default)]
struct Heard {
    /// When it answered last.
    last: Option<Timestamp>,
    /// When somebody's patience ran out, if it has not answered since.
    silent: Option<Timestamp>,
}

impl Silence {
    /// The registry answered, whatever it said.
    pub(super) fn end(&self, registry: &Arc<str>, now: Timestamp) {
        self.at(registry, |heard| *heard = Heard { last: Some(now), silent: None });
    }

    /// Somebody who asked it at `asked` waits no longer. A registry that answered others meanwhile is not silent: it is slow over
    /// one package.
    pub(super) fn begin(&self, registry: &Arc<str>, asked: Timestamp, now: Timestamp) {
        self.at(registry, |heard| {
            if heard.last.is_none_or(|last| last < asked || last > now) {
                heard.silent = Some(now);
            }
        });
    }

    /// Whether it was found silent a moment before `now`.
    pub(super) fn holds(&self, registry: &Arc<str>, now: Timestamp) -> bool {
        self.at(registry, |heard| heard.silent.is_some_and(|since| since <= now && now < instant::after(since, LASTS)))
    }

    fn at<T>(&self, registry: &Arc<str>, act: impl FnOnce(&mut Heard) -> T) -> T {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There are as many as there are registries: those of the configuration.
        act(heard.entry(Arc::clone(registry)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_775_000_000 + second).unwrap()
    }

    #[test]
    fn it_lasts_a_while_and_ends_with_the_first_word() {
        let (silence, registry) = (Silence::default(), Arc::from("https://registry.example/"));
        let other = Arc::from("https://other.example/");
        assert!(!silence.holds(&registry, at(0)));
        silence.begin(&registry, at(0), at(3));
        assert!(silence.holds(&registry, at(3)) && silence.holds(&registry, at(12)) && !silence.holds(&other, at(3)));
        // Over, and a clock that was set back is not within it.
        assert!(!silence.holds(&registry, at(13)) && !silence.holds(&registry, at(2)));
        silence.end(&registry, at(5));
        assert!(!silence.holds(&registry, at(6)));
    }

    #[test]
    fn a_registry_that_answers_others_meanwhile_is_not_silent() {
        let (silence, registry) = (Silence::default(), Arc::from("https://registry.example/"));
        silence.end(&registry, at(1));
        silence.begin(&registry, at(0), at(3));
        assert!(!silence.holds(&registry, at(3)));
        silence.begin(&registry, at(2), at(5));
        assert!(silence.holds(&registry, at(5)));
    }
}
