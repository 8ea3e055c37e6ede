//! `[[owner]]` entries of policy files: the people who answer for packages. Requests name them, and may need one of them.

use crate::diagnostics::SourceSpan;
use crate::npm::PackageName;
use crate::policy::principal::{Principal, check_person};
use crate::policy::rules::parse::{compiled, package_globs};
use crate::policy::rules::rule::GlobList;
use crate::policy::rules::toml_table::TomlTable;

/// Maximum number of entries in a policy, and of people in an entry.
pub(crate) const MAX_OWNERS: usize = 1_000;
const MAX_PEOPLE: usize = 50;

const KEYS: &[&str] = &["packages", "scopes", "people", "must-approve"];
const PEOPLE: &str = "names of people, as in `coldframe token create --owner`";

/// The people who answer for some packages.
#[derive(Debug, Clone)]
pub struct PackageOwner {
    packages: GlobList,
    pub people: Vec<Box<str>>,
    /// Whether one of them must approve requests for these packages.
    pub must_approve: bool,
}

impl PackageOwner {
    pub(crate) fn owns(&self, name: &PackageName) -> bool {
        self.packages.set.is_match(name.as_str())
    }

    pub(crate) fn includes(&self, person: &Principal) -> bool {
        !person.is_machine() && self.people.iter().any(|owner| Principal::Person((**owner).into()).is_same_person(person))
    }
}

/// Parses an entry. Reports mistakes and returns `None` if there are any.
pub(crate) fn parse_owner(table: &mut TomlTable<'_, '_>, place: &SourceSpan) -> Option<PackageOwner> {
    let before = table.errors.len();
    table.reject_unknown(KEYS);
    let globs = package_globs(table);
    let people = table.parsed("people", PEOPLE, |text| {
        check_person(text).map(|()| text.into()).map_err(|_| "is not a name of a person".to_owned())
    });
    let must_approve = table.boolean("must-approve").unwrap_or(false);
    if table.value("packages").is_none() && table.value("scopes").is_none() {
        table.note(place.span.clone(), "the owner has no `packages` and no `scopes`", "`packages` with names or globs");
    }
    if table.value("people").is_none() {
        table.note(place.span.clone(), "the owner has no `people`", PEOPLE);
    }
    let packages = globs.and_then(|globs| compiled(table, "packages", globs));
    let people: Option<Vec<Box<str>>> = people;
    if let Some(span) = table.key("people").filter(|_| people.as_ref().is_some_and(|people| people.len() > MAX_PEOPLE)) {
        table.note(span, format!("`people` has more than {MAX_PEOPLE} names"), PEOPLE);
    }
    if table.errors.len() > before {
        return None;
    }
    Some(PackageOwner { packages: packages?, people: people?, must_approve })
}
