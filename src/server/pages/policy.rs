//! The policy that applies at this listener.

use bytes::Bytes;
use http::Response;

use crate::policy::rules::describe::describe_conditions;
use crate::policy::rules::rule::Rule;
use crate::server::pages::list::{Cell, ListPage, ListTable};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::units::timestamp;

impl Pages {
    pub(super) fn policy(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let snapshot = self.firewall.policy();
        let policy = snapshot.policy(request.viewer.client.profile);
        let mut notes = vec![
            "Rules are read in order. The first `allow` or `deny` that applies decides. A `hold` refuses a version until its age has \
             passed, and then the next rule is read. A version that no rule refuses is served. Built-in rules on integrity, takedowns and \
             contradictions come first, and no file can switch them off."
                .to_owned(),
        ];
        if !policy.excluded.is_empty() {
            notes.push(format!("Rules on ages do not apply to: {}.", policy.excluded.join(", ")));
        }
        let table = ListTable {
            caption: "Rules, in order".to_owned(),
            columns: &["Rule", "Action", "Applies if", "Reason", "Owner", "Until"],
            rows: policy.in_force().map(cells).collect(),
            empty: "There are no rules.",
        };
        ListPage { notes, ..ListPage::new(request.frame.titled("Policy"), vec![table]) }.response()
    }
}

fn cells(rule: &Rule) -> Vec<Cell> {
    let observed = if rule.observe { ", recorded only" } else { "" };
    let text = |text: &Option<Box<str>>| Cell::text(text.as_deref().unwrap_or_default());
    vec![
        Cell::text(&*rule.id),
        Cell::text(format!("{}{observed}", rule.action.describe())),
        Cell::text(describe_conditions(rule)),
        Cell::text(&*rule.reason),
        text(&rule.owner),
        Cell::text(rule.expires.map(timestamp::format_utc).unwrap_or_default()),
    ]
}
