//! Parses one `[[rule]]`: its action, its conditions, and combinations that are not allowed.

use globset::{Glob, GlobBuilder, GlobSetBuilder};

use crate::diagnostics::SourceSpan;
use crate::npm::{PackageName, Range};
use crate::policy::advisories::{AdvisoryKind, FeedTrust, Severity};
use crate::policy::rules::rule::{
    AdvisoryCondition, AgeLimits, AgeSubject, DependencyKind, GlobList, PackageGlob, RequestPolicy, Rule, RuleAction,
    RuleConditions,
};
use crate::policy::rules::toml_table::{TomlTable, quoted};
use crate::vetting::{Finding, Findings, Signal, SignalStrength, Signals};

/// Allowed keys of a rule.
const KEYS: &[&str] = &[
    "id",
    "reason",
    "owner",
    "expires",
    "observe",
    "allow",
    "deny",
    "hold",
    "warn",
    "of",
    "packages",
    "scopes",
    "except",
    "versions",
    "younger-than",
    "older-than",
    "package-younger-than",
    "package-older-than",
    "publishers",
    "maintainers",
    "install-script",
    "dependencies",
    "deprecated",
    "dist-tags",
    "advisory",
    "signals",
    "at-least",
    "findings",
    "siblings",
    "fix",
    "request",
];

const ACTIONS: &[&str] = &["allow", "deny", "hold", "warn"];
const ACTION: &str = "exactly one of `allow = true`, `deny = true`, `hold = \"14d\"`, `warn = true`";
const ID: &str = "letters, digits and hyphens, such as `minimum-age`";
const PACKAGES: &str = "package names or globs, such as `\"lodash\"`, `\"@acme/*\"` or `\"eslint-*\"`";
const SCOPES: &str = "scopes, such as `\"@acme\"`";
const PEOPLE: &str = "names as npm shows them, or globs, such as `\"jasonsaayman\"` or `\"GitHub Actions\"`";
const VERSIONS: &str = "an npm range, such as `\"<2.0.0\"`, `\"1.x || >=2.5.0\"` or `\"1.14.1\"`";

/// Parses a rule. Reports mistakes and returns `None` if there are any.
pub(crate) fn parse_rule(table: &mut TomlTable<'_, '_>, place: SourceSpan) -> Option<Rule> {
    let before = table.errors.len();
    table.reject_unknown(KEYS);
    let id = id(table, &place);
    let reason = table.text("reason", "a sentence for affected users").map(|(text, _)| text.trim());
    if table.value("reason").is_none() || reason == Some("") {
        table.note(place.span.clone(), "the rule has no `reason`", "`reason` with a sentence for affected users");
    }
    let owner = table.text("owner", "a person or a team").map(|(text, _)| text.into());
    let expires = table.instant("expires");
    let observe = table.boolean("observe").unwrap_or(false);
    let action = action(table, &place);
    let request = table.word("request", RequestPolicy::ALL, RequestPolicy::as_str);
    let conditions = conditions(table);
    if let Some(action) = action {
        check(table, action, observe, &conditions);
    }
    if table.errors.len() > before {
        return None;
    }
    let (id, reason) = (id?.into(), reason?.into());
    Some(Rule { id, reason, owner, expires, action: action?, observe, request, conditions, place: Some(place) })
}

fn id<'t>(table: &mut TomlTable<'t, '_>, place: &SourceSpan) -> Option<&'t str> {
    let Some((id, span)) = table.text("id", ID) else {
        if table.value("id").is_none() {
            table.note(place.span.clone(), "the rule has no `id`", ID);
        }
        return None;
    };
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
        table.note(span, format!("`id` is invalid: `{}`", id.escape_debug()), ID);
        return None;
    }
    Some(id)
}

fn action(table: &mut TomlTable<'_, '_>, place: &SourceSpan) -> Option<RuleAction> {
    let written: Vec<_> = ACTIONS.iter().filter_map(|name| Some((*name, table.key(name)?))).collect();
    let name = match &*written {
        [] => {
            table.note(place.span.clone(), "the rule has no action", ACTION);
            return None;
        }
        [(name, _)] => *name,
        [_, (name, span), ..] => {
            table.note(span.clone(), format!("the rule has a second action: `{name}`"), ACTION);
            return None;
        }
    };
    let of = table.one("of", "`release` or `package`", |text| match text {
        "release" => Ok(AgeSubject::Release),
        "package" => Ok(AgeSubject::Package),
        _ => Err("has an unknown value".to_owned()),
    });
    if let Some(span) = table.key("of").filter(|_| name != "hold") {
        table.note(span, "`of` in a rule that is not a hold", "`of` together with `hold`");
    }
    if name == "hold" {
        return Some(RuleAction::Hold { age: table.duration("hold")?, of: of.unwrap_or(AgeSubject::Release) });
    }
    if table.boolean(name)? {
        return Some(match name {
            "allow" => RuleAction::Allow,
            "deny" => RuleAction::Deny,
            _ => RuleAction::Warn,
        });
    }
    let span = table.key(name).unwrap_or_default();
    table.note(span, format!("`{name} = false` has no effect"), ACTION);
    None
}

/// Returns the globs of `packages` and `scopes`, or `None` if there are none.
pub(crate) fn package_globs(table: &mut TomlTable<'_, '_>) -> Option<Vec<Glob>> {
    let scopes = table.parsed("scopes", SCOPES, |text| {
        let named = text.strip_prefix('@').is_some_and(|name| !name.is_empty() && !name.contains('/'));
        if named { Ok(PackageGlob::parse(&format!("{text}/*"))?.0) } else { Err("is not a scope".to_owned()) }
    });
    let packages = packages_of(table, "packages");
    match (packages, scopes) {
        (None, None) => None,
        (packages, scopes) => Some(packages.into_iter().chain(scopes).flatten().collect()),
    }
}

fn conditions(table: &mut TomlTable<'_, '_>) -> RuleConditions {
    let named = package_globs(table).and_then(|globs| compiled(table, "packages", globs));
    let except = packages_of(table, "except");
    RuleConditions {
        packages: named,
        except: except.and_then(|globs| compiled(table, "except", globs)),
        versions: versions(table),
        age: AgeLimits { younger_than: table.duration("younger-than"), older_than: table.duration("older-than") },
        package_age: AgeLimits {
            younger_than: table.duration("package-younger-than"),
            older_than: table.duration("package-older-than"),
        },
        publishers: people(table, "publishers"),
        maintainers: people(table, "maintainers"),
        install_script: table.boolean("install-script"),
        deprecated: table.boolean("deprecated"),
        dependencies: table.words("dependencies", DependencyKind::ALL, DependencyKind::as_str),
        tags: table
            .texts("dist-tags", "dist-tags, such as `\"latest\"`")
            .map(|tags| tags.into_iter().map(|(tag, _)| tag.into()).collect()),
        advisory: advisory(table),
        signals: signals(table),
        findings: findings(table),
        spares_siblings: is_set(table, "siblings", "exempt"),
        fixes: is_set(table, "fix", "reviewed"),
    }
}

fn packages_of(table: &mut TomlTable<'_, '_>, name: &str) -> Option<Vec<Glob>> {
    table.parsed(name, PACKAGES, |text| {
        let glob = PackageGlob::parse(text).map_err(|error| format!("is not a glob ({error})"))?.0;
        let is_pattern = text.contains(['*', '?', '[', '{', '\\']);
        if is_pattern || PackageName::parse(text).is_ok() { Ok(glob) } else { Err("is not a package name".to_owned()) }
    })
}

/// Parses names of publishers or maintainers. They may be globs, in which a slash is an ordinary character.
fn people(table: &mut TomlTable<'_, '_>, name: &str) -> Option<GlobList> {
    let globs = table.parsed(name, PEOPLE, |text| {
        GlobBuilder::new(text).build().map_err(|error| format!("is not a glob ({})", error.kind()))
    })?;
    compiled(table, name, globs)
}

pub(crate) fn compiled(table: &mut TomlTable<'_, '_>, name: &str, globs: Vec<Glob>) -> Option<GlobList> {
    let words = globs.iter().map(|glob| glob.glob().into()).collect();
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob);
    }
    match set.build() {
        Ok(set) => Some(GlobList { set, words }),
        Err(error) => {
            let span = table.key(name).unwrap_or_default();
            table.note(span, format!("`{name}` cannot be compiled: {}", error.kind()), "fewer or shorter globs");
            None
        }
    }
}

fn versions(table: &mut TomlTable<'_, '_>) -> Option<Range> {
    table.one("versions", VERSIONS, |text| match Range::parse(text) {
        None => Err("is not a range".to_owned()),
        Some(range) if range.is_impossible() => Err("is a range that matches no version".to_owned()),
        Some(range) => Ok(range),
    })
}

fn advisory(table: &mut TomlTable<'_, '_>) -> Option<AdvisoryCondition> {
    const ALLOWED: &str = "a table, such as `{ kind = \"malware\", trust = \"deny\" }`; `{}` for any";
    let value = table.value("advisory")?;
    let Some(inner) = value.get_ref().as_table() else {
        return table.wrong_type("advisory", value, ALLOWED);
    };
    let mut inner = TomlTable { file: table.file, inside: inner, errors: &mut *table.errors };
    inner.reject_unknown(&["kind", "severity", "feed", "trust"]);
    let kind = inner.word("kind", AdvisoryKind::ALL, AdvisoryKind::as_str);
    let severity = inner.word("severity", Severity::ALL, Severity::as_str);
    let trust = inner.word("trust", FeedTrust::ALL, FeedTrust::as_str);
    let feeds = inner.texts("feed", "names of feeds, such as `\"osv\"`");
    let feeds = feeds.map(|feeds| feeds.into_iter().map(|(feed, _)| feed.into()).collect());
    Some(AdvisoryCondition { kind, severity, feeds, trust })
}

fn signals(table: &mut TomlTable<'_, '_>) -> Option<(Signals, u32)> {
    let allowed = quoted(["strong", "weak"].into_iter().chain(Signal::ALL.iter().map(|signal| signal.as_str())));
    let written = table.parsed("signals", &allowed, |text| match text {
        "strong" => Ok(Signals::of_strength(SignalStrength::Strong)),
        "weak" => Ok(Signals::of_strength(SignalStrength::Weak)),
        _ => Signal::parse(text).map(Signals::from).ok_or_else(|| "has an unknown value".to_owned()),
    });
    let least = table.count("at-least");
    let Some(written) = written else {
        if let Some(span) = table.key("at-least") {
            table.note(span, "`at-least` in a rule without `signals`", "`at-least` together with `signals`");
        }
        return None;
    };
    let wanted: Signals = written.into_iter().fold(Signals::NONE, Signals::or);
    let least = least.unwrap_or(1);
    if least > wanted.count() && !wanted.is_empty() {
        let (span, most) = (table.key("at-least").unwrap_or_default(), wanted.count());
        table.note(span, format!("`at-least` exceeds the number of named signals: `{least}`"), format!("at most {most}"));
    }
    Some((wanted, least))
}

fn findings(table: &mut TomlTable<'_, '_>) -> Option<Findings> {
    let allowed = quoted(["behaviour", "change"].into_iter().chain(Finding::ALL.iter().map(|finding| finding.as_str())));
    let written = table.parsed("findings", &allowed, |text| match text {
        "behaviour" => Ok(Findings::of_behaviour()),
        "change" => Ok(Findings::of_change()),
        _ => Finding::parse(text).map(Findings::from).ok_or_else(|| "has an unknown value".to_owned()),
    });
    Some(written?.into_iter().fold(Findings::NONE, Findings::or))
}

/// Checks whether `name` is set to its only value.
fn is_set(table: &mut TomlTable<'_, '_>, name: &str, value: &str) -> bool {
    let read = |text: &str| if text == value { Ok(()) } else { Err("has an unknown value".to_owned()) };
    table.one(name, &format!("`{value}`"), read).is_some()
}

/// Reports combinations that are not allowed. As time passes, a rule may open versions but never close them, because a stale
/// verdict may be served while upstream is down.
fn check(table: &mut TomlTable<'_, '_>, action: RuleAction, observe: bool, conditions: &RuleConditions) {
    let refuses = action.refuses();
    let (closing, kind, allowed): (&[&str], _, _) = match action {
        RuleAction::Allow => (&["younger-than", "package-younger-than"], "an `allow`", "`older-than`, `package-older-than`"),
        RuleAction::Deny | RuleAction::Hold { .. } => {
            (&["older-than", "package-older-than"], "a rule that refuses", "`younger-than`, `package-younger-than`")
        }
        RuleAction::Warn => (&[], "", ""),
    };
    for name in closing {
        if let Some(span) = table.key(name) {
            table.note(span, format!("`{name}` in {kind}: an open version would close over time"), allowed);
        }
    }
    for (name, limits) in [("younger-than", conditions.age), ("package-younger-than", conditions.package_age)] {
        if let Some(span) = table.key(name).filter(|_| limits.is_empty()) {
            table.note(span, format!("`{name}` is too low: the rule would match nothing"), "an age above the lower limit");
        }
    }
    let is_hold = matches!(action, RuleAction::Hold { .. });
    let misplaced = [
        (
            "advisory",
            action == RuleAction::Allow,
            "`advisory` in an `allow`: the author of an advisory could open versions",
            "`fix = \"reviewed\"` here, or `advisory` together with `deny`, `hold` or `warn`",
        ),
        ("observe", observe && !refuses, "`observe` in a rule that refuses nothing", "`observe` together with `deny` or `hold`"),
        ("request", !refuses || observe, "`request` in a rule that refuses nothing", "`request` together with `deny` or `hold`"),
        ("fix", refuses, "`fix` in a rule that refuses", "`fix` together with `allow` or `warn`"),
        ("siblings", !is_hold, "`siblings` in a rule that is not a hold", "`siblings` together with `hold`"),
    ];
    for (name, is_misplaced, problem, allowed) in misplaced {
        if let Some(span) = table.key(name).filter(|_| is_misplaced) {
            table.note(span, problem, allowed);
        }
    }
}
