//! Conformance tests for all backends of [`RequestLedger`]. `request_laws!` generates the tests of one backend.

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::Principal;
use crate::policy::decisions::{DecisionAction, DecisionProposal, Signature};
use crate::policy::requests::text::{ProjectName, RequestReason};
use crate::policy::requests::{Actor, Asker, DECLINED_FOR, NewRequest, RequestState, RequestedBytes, StepKind, Wish};
use crate::store::conformance::{Open, at};
use crate::store::request_ledger::{AskOutcome, MAX_OPEN_PER_ASKER, RequestEnd, RequestFilter, RequestLedger};
use crate::units::timestamp;

/// Generates the tests of a backend. `$home` creates a home folder, `$open` opens the ledger in it.
macro_rules! request_laws {
    ($home:expr, $open:expr) => {
        $crate::store::request_conformance::request_laws!($home, $open;
            request_is_read_before_and_after_a_restart,
            others_join_and_tokens_of_one_person_are_one_asker,
            open_requests_of_one_asker_are_bounded,
            declined_version_is_asked_for_again_after_a_week,
            other_bytes_end_the_request,
            one_of_two_approvals_wins,
            second_person_confirms_and_only_once,
            withdrawing_ends_the_request_of_the_last_asker,
            requests_are_listed_newest_first_in_pages,
            due_requests_are_the_longest_overdue,
            ended_requests_are_pruned,
        );
    };
    ($home:expr, $open:expr; $($law:ident,)*) => {$(
        #[test]
        fn $law() {
            let home = $home;
            let open = || -> std::sync::Arc<dyn crate::store::request_ledger::RequestLedger> { $open(&home) };
            $crate::store::request_conformance::$law(&open);
        }
    )*};
}
pub(crate) use request_laws;

type OpenRequests<'a> = Open<'a, dyn RequestLedger>;

fn actor(person: &str, seconds: i64) -> Actor {
    let principal = Principal::Person(person.into());
    Actor { principal, subject: format!("{person}-laptop"), method: "token 3".to_owned(), at: at(seconds) }
}

fn new(person: &str, version: &str, seconds: i64) -> NewRequest {
    let wish = Wish {
        reason: RequestReason::parse("the fix").unwrap(),
        project: Some(ProjectName::parse("acme/web").unwrap()),
        lasts: Duration::from_secs(3600),
    };
    let bytes =
        RequestedBytes { package: "axios".to_owned(), version: version.to_owned(), digests: "sha512-AAAA sha1-BBBB".to_owned() };
    NewRequest {
        bytes,
        asker: Asker { by: actor(person, seconds), wish, withdrawn: None },
        profile: 1,
        check_at: at(seconds + 60),
    }
}

/// Asks for a version that no one asked for before, and returns the number.
fn created(ledger: &dyn RequestLedger, new: &NewRequest) -> i64 {
    match ledger.ask(new).unwrap() {
        AskOutcome::Created(id) => id,
        refused => panic!("{refused:?}"),
    }
}

fn proposal(by: &Actor, needs_second: bool) -> DecisionProposal {
    DecisionProposal {
        act: DecisionAction::Approve {
            package: "axios".to_owned(),
            asked: "1.0.0".to_owned(),
            versions: Vec::new(),
            records: Vec::new(),
        },
        reason: "INC-7".to_owned(),
        author: Signature { who: by.principal.name().to_owned(), at: by.at },
        expires: Some(at(90_000)),
        needs_second,
    }
}

fn end(state: RequestState, by: Actor) -> RequestEnd {
    RequestEnd { state, by, why: "no".to_owned() }
}

pub(crate) fn request_is_read_before_and_after_a_restart(open: OpenRequests<'_>) {
    let (ledger, wanted) = (open(), new("ada", "1.0.0", 5));
    let id = created(&*ledger, &wanted);
    let before = ledger.request(id).unwrap().unwrap();
    assert_eq!((&before.bytes, &before.askers, before.profile), (&wanted.bytes, &vec![wanted.asker.clone()], 1));
    assert_eq!((before.state, before.steps[0].kind, &*before.steps[0].detail), (RequestState::Open, StepKind::Asked, "the fix"));
    drop(ledger);
    let ledger = open();
    assert_eq!(ledger.request(id).unwrap(), Some(before));
    assert_eq!((ledger.request(id + 1).unwrap(), ledger.open_requests().unwrap()), (None, 1));
}

pub(crate) fn others_join_and_tokens_of_one_person_are_one_asker(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    let mut again = new("Ada", "1.0.0", 2);
    again.asker.by.subject = "ada-phone".to_owned();
    assert_eq!(ledger.ask(&again).unwrap(), AskOutcome::Repeated(id));
    assert_eq!(ledger.ask(&new("bob", "1.0.0", 3)).unwrap(), AskOutcome::Joined(id));
    let request = ledger.request(id).unwrap().unwrap();
    let persons: Vec<_> = request.askers.iter().map(|asker| asker.by.principal.name()).collect();
    assert_eq!((persons, request.steps.len()), (vec!["ada", "bob"], 2));
}

pub(crate) fn open_requests_of_one_asker_are_bounded(open: OpenRequests<'_>) {
    let ledger = open();
    let ids: Vec<_> = (0..MAX_OPEN_PER_ASKER).map(|number| created(&*ledger, &new("ada", &format!("{number}.0.0"), 1))).collect();
    assert_eq!(ledger.ask(&new("ADA", "99.0.0", 2)).unwrap(), AskOutcome::TooManyOwn);
    let others = created(&*ledger, &new("bob", "99.0.0", 2));
    assert_eq!(ledger.ask(&new("ada", "99.0.0", 2)).unwrap(), AskOutcome::TooManyOwn, "joining counts too");
    assert!(ledger.withdraw_request(ids[0], &actor("ada", 3)).unwrap());
    assert_eq!(ledger.ask(&new("ada", "99.0.0", 4)).unwrap(), AskOutcome::Joined(others));
    assert!(ledger.end_request(ids[1], &end(RequestState::Opened, Actor::server(at(5)))).unwrap());
    assert!(matches!(ledger.ask(&new("ada", "100.0.0", 6)).unwrap(), AskOutcome::Created(_)));
}

pub(crate) fn declined_version_is_asked_for_again_after_a_week(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    assert!(ledger.end_request(id, &end(RequestState::Declined, actor("grace", 10))).unwrap());
    assert!(!ledger.end_request(id, &end(RequestState::Declined, actor("grace", 11))).unwrap(), "it ended already");
    let until = timestamp::saturating_add(at(10), DECLINED_FOR);
    let declined = AskOutcome::Declined { id, until, why: "no".to_owned() };
    let later = |seconds: i64| {
        let mut again = new("bob", "1.0.0", 0);
        again.asker.by.at = until.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
        again
    };
    let mut other_bytes = later(-1);
    other_bytes.bytes.digests = "sha512-CCCC".to_owned();
    for again in [new("ada", "1.0.0", 20), later(-1), other_bytes] {
        assert_eq!(ledger.ask(&again).unwrap(), declined);
    }
    assert!(matches!(ledger.ask(&later(0)).unwrap(), AskOutcome::Created(_)));
    assert!(matches!(ledger.ask(&new("ada", "2.0.0", 20)).unwrap(), AskOutcome::Created(_)), "other versions");
}

pub(crate) fn other_bytes_end_the_request(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    let mut other = new("bob", "1.0.0", 2);
    other.bytes.digests = "sha512-CCCC".to_owned();
    let next = created(&*ledger, &other);
    let ended = ledger.request(id).unwrap().unwrap();
    assert_eq!((ended.state, ended.steps[1].by.method.as_str()), (RequestState::BytesChanged, "server"));
    assert_eq!(ledger.request(next).unwrap().unwrap().askers.len(), 1, "who asked for other bytes did not ask for these");
}

pub(crate) fn one_of_two_approvals_wins(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    let (grace, alan) = (actor("grace", 2), actor("alan", 3));
    let approved = ledger.approve_request(id, &grace, &proposal(&grace, false)).unwrap().unwrap();
    assert_eq!(ledger.approve_request(id, &alan, &proposal(&alan, false)).unwrap(), None);
    assert_eq!(ledger.confirm_request(id, &alan, "me too").unwrap(), None);
    assert!(!ledger.end_request(id, &end(RequestState::Declined, alan)).unwrap());
    let request = ledger.request(id).unwrap().unwrap();
    assert_eq!((request.state, request.decision), (RequestState::Approved, Some(approved.decision)));
    assert_eq!((request.steps[1].kind, request.steps[1].by.clone()), (StepKind::Approved, grace));
    assert!(approved.revision > ledger.applied_decisions().unwrap());
}

pub(crate) fn second_person_confirms_and_only_once(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    let grace = actor("grace", 2);
    ledger.approve_request(id, &grace, &proposal(&grace, true)).unwrap().unwrap();
    assert_eq!(ledger.request(id).unwrap().unwrap().state, RequestState::AwaitsSecond);
    assert_eq!(ledger.confirm_request(id, &actor("GRACE", 3), "again").unwrap(), None);
    assert_eq!(ledger.confirm_request(id, &actor("Ada", 3), "mine").unwrap(), None, "who asked");
    assert!(ledger.confirm_request(id, &actor("alan", 4), "yes").unwrap().is_some());
    assert_eq!(ledger.confirm_request(id, &actor("linus", 5), "yes").unwrap(), None);
    assert_eq!(ledger.request(id).unwrap().unwrap().state, RequestState::Approved);
    // A request that ends while it waits revokes its decision.
    let id = created(&*ledger, &new("ada", "2.0.0", 1));
    ledger.approve_request(id, &grace, &proposal(&grace, true)).unwrap().unwrap();
    assert!(ledger.end_request(id, &end(RequestState::Declined, actor("alan", 6))).unwrap());
    assert_eq!(ledger.confirm_request(id, &actor("linus", 7), "yes").unwrap(), None);
}

pub(crate) fn withdrawing_ends_the_request_of_the_last_asker(open: OpenRequests<'_>) {
    let ledger = open();
    let id = created(&*ledger, &new("ada", "1.0.0", 1));
    ledger.ask(&new("bob", "1.0.0", 2)).unwrap();
    assert!(!ledger.withdraw_request(id, &actor("eve", 3)).unwrap());
    assert!(ledger.withdraw_request(id, &actor("ada", 4)).unwrap());
    assert!(!ledger.withdraw_request(id, &actor("ada", 5)).unwrap());
    let request = ledger.request(id).unwrap().unwrap();
    assert_eq!((request.state, request.askers[0].withdrawn), (RequestState::Open, Some(at(4))));
    assert_eq!(ledger.ask(&new("ada", "1.0.0", 6)).unwrap(), AskOutcome::Joined(id));
    for person in ["ada", "bob"] {
        assert!(ledger.withdraw_request(id, &actor(person, 7)).unwrap(), "{person}");
    }
    assert_eq!(ledger.request(id).unwrap().unwrap().state, RequestState::Withdrawn);
    assert_eq!(ledger.open_requests().unwrap(), 0);
}

pub(crate) fn requests_are_listed_newest_first_in_pages(open: OpenRequests<'_>) {
    let ledger = open();
    let ids: Vec<_> = (0..5).map(|number| created(&*ledger, &new("ada", &format!("{number}.0.0"), number))).collect();
    ledger.end_request(ids[4], &end(RequestState::Opened, Actor::server(at(9)))).unwrap();
    let list =
        |filter: &RequestFilter| -> Vec<i64> { ledger.requests(filter).unwrap().into_iter().map(|request| request.id).collect() };
    let all = RequestFilter { limit: 2, ..RequestFilter::default() };
    assert_eq!(list(&all), [ids[4], ids[3]]);
    assert_eq!(list(&RequestFilter { before: Some(ids[3]), ..all.clone() }), [ids[2], ids[1]]);
    let open = RequestFilter { states: vec![RequestState::Open, RequestState::AwaitsSecond], ..all.clone() };
    assert_eq!(list(&open), [ids[3], ids[2]]);
    assert_eq!(list(&RequestFilter { states: vec![RequestState::Opened], ..all.clone() }), [ids[4]]);
    assert_eq!(list(&RequestFilter { package: Some("left-pad".to_owned()), ..all }), [0_i64; 0]);
}

pub(crate) fn due_requests_are_the_longest_overdue(open: OpenRequests<'_>) {
    let ledger = open();
    let ids: Vec<_> = [30, 10, 20].iter().map(|at| created(&*ledger, &new("ada", &format!("{at}.0.0"), *at))).collect();
    let due = |now: i64| -> Vec<i64> { ledger.due_requests(at(now), 2).unwrap().into_iter().map(|request| request.id).collect() };
    assert_eq!((due(69), due(85), due(100)), (vec![], vec![ids[1], ids[2]], vec![ids[1], ids[2]]));
    ledger.check_request_at(ids[1], at(500)).unwrap();
    ledger.end_request(ids[2], &end(RequestState::Opened, Actor::server(at(9)))).unwrap();
    assert_eq!(due(100), [ids[0]]);
}

pub(crate) fn ended_requests_are_pruned(open: OpenRequests<'_>) {
    let ledger = open();
    let ids: Vec<_> = (0..3).map(|number| created(&*ledger, &new("ada", &format!("{number}.0.0"), 1))).collect();
    for (id, seconds) in ids[..2].iter().zip([10, 20]) {
        ledger.end_request(*id, &end(RequestState::Opened, Actor::server(at(seconds)))).unwrap();
    }
    assert_eq!(ledger.prune_requests(at(15)).unwrap(), 1);
    let exist: Vec<_> = ids.iter().map(|id| ledger.request(*id).unwrap().is_some()).collect();
    assert_eq!(exist, [false, true, true]);
    assert_eq!(ledger.prune_requests(Timestamp::MAX).unwrap(), 1, "open ones are kept");
}
