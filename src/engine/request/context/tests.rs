use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::engine::request::result::Scalar;
use crate::engine::request::secret_names::Exposed;

fn text(s: &str) -> AttributeValue {
    AttributeValue::One(Scalar::Bytes(s.as_bytes().into()))
}

fn result(pairs: &[(&str, &str)]) -> BackendResult {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.as_bytes().into(), text(value)));
    BackendResult {
        attributes: Attributes::from_pairs(pairs),
        ..Default::default()
    }
}

fn with_groups(groups: &[&str]) -> BackendResult {
    let mut result = result(&[]);
    result.groups = groups.iter().map(|g| g.as_bytes().into()).collect();
    result
}

/// `name=value` of each final attribute.
fn attributes(context: &RequestContext) -> Vec<String> {
    let show = |(name, value): (&AttributeName, &AttributeValue)| {
        let value = headers::value(name, value);
        format!(
            "{}={}",
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(&value)
        )
    };
    context.attributes().iter().map(show).collect()
}

/// `Name: value` of each header.
fn header_lines(context: &mut RequestContext) -> Vec<String> {
    let mut lines = Vec::new();
    context
        .headers()
        .for_each(|name, value| lines.push(format!("{name}: {}", String::from_utf8_lossy(value))));
    assert_eq!(lines.len(), context.headers().len());
    lines
}

/// `Name: value`, or `-Name` for one that vanished.
fn changes(context: &mut RequestContext) -> Vec<String> {
    let mut lines = Vec::new();
    context.take_changes().for_each(|name, value| {
        lines.push(match value {
            Some(value) => format!("{name}: {}", String::from_utf8_lossy(value)),
            None => format!("-{name}"),
        });
    });
    lines
}

#[test]
fn the_base_wins_unless_its_name_is_removed() {
    let mut context = RequestContext::new();
    context
        .set_base(result(&[("a", "base"), ("b", "base")]))
        .unwrap();
    context
        .apply(&result(&[("a", "applied"), ("c", "applied")]))
        .unwrap();
    assert_eq!(attributes(&context), ["a=base", "b=base", "c=applied"]);
    context.remove(["a"]);
    assert_eq!(attributes(&context), ["a=applied", "b=base", "c=applied"]);
    context.remove(["b", "c"]);
    assert_eq!(attributes(&context), ["a=applied", "c=applied"]);
}

#[test]
fn removal_comes_first_whatever_the_order_of_calls() {
    let mut before = RequestContext::new();
    before.remove(["a"]);
    before.apply(&result(&[("a", "1")])).unwrap();
    before.set_base(result(&[("a", "base")])).unwrap();
    let mut after = RequestContext::new();
    after.set_base(result(&[("a", "base")])).unwrap();
    after.apply(&result(&[("a", "1")])).unwrap();
    after.remove(["a"]);
    assert_eq!(attributes(&before), ["a=1"]);
    assert_eq!(attributes(&after), ["a=1"]);
}

#[test]
fn among_applied_the_later_wins() {
    let mut context = RequestContext::new();
    for value in ["1", "2", "3"] {
        context
            .apply(&result(&[("a", value), (value, value)]))
            .unwrap();
    }
    assert_eq!(attributes(&context), ["1=1", "2=2", "3=3", "a=3"]);
    context.apply(&result(&[])).unwrap();
    assert_eq!(attributes(&context).len(), 4);
}

/// Covers a later result that sets every name that was set before, and one that lacks one of them.
#[test]
fn what_is_applied_anew_is_as_if_applied_once() {
    let anew: &[(&str, &str)] = &[("a", "3"), ("b-c", "4"), ("b_c", "5")];
    let applied = |before: &[&[(&str, &str)]]| {
        let mut context = RequestContext::new();
        for pairs in before.iter().chain([&anew]) {
            context.apply(&result(pairs)).unwrap();
        }
        (attributes(&context), header_lines(&mut context))
    };
    let once = applied(&[]);
    assert_eq!(once.1, ["X-Nauthilus-A: 3", "X-Nauthilus-B-C: 5"]);
    assert_eq!(applied(&[&[("a", "1"), ("b-c", "2")]]), once);
    assert_eq!(applied(&[&[("b_c", "1")], &[("a", "2")], anew]), once);
    let (more, _) = applied(&[&[("a", "1"), ("z", "2")]]);
    assert_eq!(more, ["a=3", "b-c=4", "b_c=5", "z=2"]);
}

#[test]
fn names_are_case_sensitive_and_one_header_has_the_later() {
    let mut context = RequestContext::new();
    context.set_base(result(&[("hostip", "base")])).unwrap();
    context.apply(&result(&[("HostIP", "1")])).unwrap();
    assert_eq!(attributes(&context), ["HostIP=1", "hostip=base"]);
    assert_eq!(header_lines(&mut context), ["X-Nauthilus-Hostip: 1"]);
    // In order of names "hostip" comes after "HOSTIP", but the call with "HOSTIP" is the later one.
    context.remove(["hostip"]);
    context.apply(&result(&[("hostip", "2")])).unwrap();
    context.apply(&result(&[("HOSTIP", "3")])).unwrap();
    assert_eq!(header_lines(&mut context), ["X-Nauthilus-Hostip: 3"]);
    context.remove(["Hostip"]);
    assert_eq!(attributes(&context), ["HOSTIP=3", "HostIP=1", "hostip=2"]);
    let mut one_result = RequestContext::new();
    one_result
        .apply(&result(&[("user-id", "dash"), ("user_id", "underscore")]))
        .unwrap();
    assert_eq!(
        header_lines(&mut one_result),
        ["X-Nauthilus-User-Id: underscore"]
    );
}

#[test]
fn groups_are_trimmed_sorted_and_unique() {
    let mut context = RequestContext::new();
    context
        .set_base(with_groups(&[" staff ", "admins"]))
        .unwrap();
    context
        .apply(&with_groups(&["\tstaff", "", "  ", "users"]))
        .unwrap();
    context.apply(&with_groups(&["users", "Users"])).unwrap();
    let groups: Vec<_> = context
        .groups()
        .iter()
        .map(|g| String::from_utf8_lossy(g).into_owned())
        .collect();
    assert_eq!(groups, ["Users", "admins", "staff", "users"]);
}

#[test]
fn a_refused_attribute_changes_nothing() {
    let mut context = RequestContext::new();
    context.apply(&result(&[("a", "1")])).unwrap();
    for bad in [
        ("b", "x\r\nSet-Cookie: y"),
        ("b\n", "x"),
        ("b", "\0"),
        ("b c", "x"),
        ("", "x"),
    ] {
        let refused = result(&[("a", "2"), bad]);
        assert!(context.apply(&refused).is_err());
        assert!(context.set_base(refused).is_err());
    }
    assert_eq!(attributes(&context), ["a=1"]);
}

#[test]
fn a_later_selection_replaces_an_earlier_one() {
    let mut context = RequestContext::new();
    assert_eq!(context.selected(), None);
    context.select("10.0.0.1", 993);
    context.select("::1", 65535);
    assert_eq!(
        header_lines(&mut context),
        ["Auth-Server: ::1", "Auth-Port: 65535"]
    );
    context.select("::1", 7);
    assert_eq!(header_lines(&mut context)[1], "Auth-Port: 7");
}

#[test]
fn a_copy_is_taken() {
    let mut source = result(&[("a", "1")]);
    let mut context = RequestContext::new();
    context.apply(&source).unwrap();
    source.attributes = result(&[("a", "2")]).attributes;
    assert_eq!(attributes(&context), ["a=1"]);
}

#[test]
fn secrets_become_no_headers() {
    let mut base = result(&[("otherseed", "s"), ("mail", "m"), ("userPassword", "s")]);
    base.totp_secret_field = Some(b"OtherSeed"[..].into());
    base.webauthn_credentials = vec![b"s"[..].into()];
    let mut context = RequestContext::new();
    context.set_base(base).unwrap();
    let mut applied = result(&[("rescue", "s"), ("x", "1")]);
    applied.totp_recovery_field = Some(b"rescue"[..].into());
    context.apply(&applied).unwrap();
    assert_eq!(
        header_lines(&mut context),
        ["X-Nauthilus-Mail: m", "X-Nauthilus-X: 1"]
    );
    assert!(
        context.attributes().contains(b"userPassword"),
        "still an attribute"
    );
    let exposed = Exposed::new(["rescue", "userPassword"]);
    let names: Vec<_> = context
        .make_headers(|name| exposed.contains(name))
        .iter()
        .map(|h| h.name.clone())
        .collect();
    assert_eq!(
        names.iter().map(|n| &**n).collect::<Vec<_>>(),
        [
            "X-Nauthilus-Mail",
            "X-Nauthilus-Rescue",
            "X-Nauthilus-Userpassword",
            "X-Nauthilus-X"
        ]
    );
}

#[test]
fn changes_are_what_differs_since_the_last_report() {
    let mut context = RequestContext::new();
    assert!(changes(&mut context).is_empty());
    context.select("10.0.0.1", 993);
    assert_eq!(
        changes(&mut context),
        ["Auth-Server: 10.0.0.1", "Auth-Port: 993"]
    );
    assert!(changes(&mut context).is_empty());
    context.apply(&result(&[("a", "1"), ("b", "1")])).unwrap();
    assert_eq!(
        changes(&mut context),
        ["X-Nauthilus-A: 1", "X-Nauthilus-B: 1"]
    );
    context.apply(&result(&[("A", "2"), ("b", "1")])).unwrap();
    assert_eq!(changes(&mut context), ["X-Nauthilus-A: 2"]);
    let mut secret = result(&[]);
    secret.totp_secret_field = Some(b"b"[..].into());
    context.apply(&secret).unwrap();
    assert_eq!(changes(&mut context), ["-X-Nauthilus-B"]);
    context.reset();
    assert_eq!(
        changes(&mut context),
        ["-Auth-Server", "-Auth-Port", "-X-Nauthilus-A"]
    );
}

#[test]
fn a_removed_name_is_reported_also_where_its_header_was_not_ours() {
    let mut context = RequestContext::new();
    context
        .set_base(result(&[("Proxy-Host", "1"), ("kept", "1")]))
        .unwrap();
    assert_eq!(changes(&mut context).len(), 2);
    context.apply(&result(&[("kept", "2")])).unwrap();
    context.remove(["Proxy-Host", "Other", "not a name", "kept"]);
    assert_eq!(
        changes(&mut context),
        [
            "-X-Nauthilus-Other",
            "-X-Nauthilus-Proxy-Host",
            "X-Nauthilus-Kept: 2"
        ]
    );
    assert!(changes(&mut context).is_empty());
    assert_eq!(context.removed().len(), 4);
}

#[test]
fn the_current_result_is_the_base_with_the_final_attributes() {
    let mut base = result(&[("a", "base")]);
    base.authenticated = true;
    base.account_field = Some(b"a"[..].into());
    let mut context = RequestContext::new();
    context.set_base(base).unwrap();
    context.apply(&result(&[("b", "1")])).unwrap();
    let current = context.current_result();
    assert!(current.authenticated);
    assert_eq!(current.account_field.as_deref(), Some(&b"a"[..]));
    assert_eq!(current.attributes.len(), 2);
}

#[test]
fn what_is_refused_is_not_reported() {
    for bad in ["a\rb", "12345678\n", "\0"] {
        let mut context = RequestContext::new();
        let told = |context: &mut RequestContext| context.report(&mut |_, _| panic!("told"));
        let refused = context.apply(&result(&[("a", bad)]));
        assert!(refused.is_err() && context.attributes().is_empty());
        assert!(told(&mut context));
        let refused = context.apply(&result(&[("a b", "1")]));
        assert!(refused.is_err() && context.attributes().is_empty());
        assert!(told(&mut context));
    }
}

#[test]
fn nothing_is_reported_where_nothing_changed() {
    let mut context = RequestContext::new();
    let mut told = Vec::new();
    let mut set = |name: &str, value: Option<&[u8]>| {
        told.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        true
    };
    let number = BackendResult {
        attributes: Attributes::from_pairs([(
            b"n"[..].into(),
            AttributeValue::One(Scalar::Integer(7)),
        )]),
        ..Default::default()
    };
    for _ in 0..2 {
        context.apply(&result(&[])).unwrap();
        assert!(context.report(&mut set));
        context.select("192.0.2.1", 143);
        assert!(context.report(&mut set));
        context.apply(&number).unwrap();
        assert!(context.report(&mut set));
    }
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    assert_eq!(
        told,
        [
            header("Auth-Server", "192.0.2.1"),
            header("Auth-Port", "143"),
            header("X-Nauthilus-N", "7")
        ]
    );
}

#[test]
fn reset_forgets_everything() {
    let mut context = RequestContext::new();
    context.set_base(with_groups(&["g"])).unwrap();
    context.apply(&result(&[("a", "1")])).unwrap();
    context.remove(["b"]);
    context.select("::1", 1);
    context.reset();
    assert!(context.headers().is_empty());
    assert!(context.attributes().is_empty() && context.groups().is_empty());
    assert!(context.removed().is_empty() && context.selected().is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Base(Vec<(&'static str, &'static str)>, Option<&'static str>),
    Apply(Vec<(&'static str, &'static str)>, Option<&'static str>),
    Remove(&'static str),
    Select(&'static str),
    Reset,
    ReadHeaders,
    /// The context is cleared for another request.
    Clear,
    /// A selection, a result or a report for a host that sets each header at once, and that fails after this
    /// many headers.
    SelectFor(&'static str, u32),
    ApplyFor(Vec<(&'static str, &'static str)>, Option<&'static str>, u32),
    Set(u32),
    Report,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || prop::sample::select(vec!["a", "A", "b_c", "b-c", "password", "totp", "x"]);
    let pairs = || prop::collection::vec((name(), prop::sample::select(vec!["1", "2", ""])), 0..4);
    let secret = || prop::option::weighted(0.2, name());
    let ip = || prop::sample::select(vec!["192.0.2.1", "192.0.2.2"]);
    let headers = || prop_oneof![Just(u32::MAX), 0_u32..4];
    let step = prop_oneof![
        (pairs(), secret()).prop_map(|(pairs, secret)| Step::Base(pairs, secret)),
        (pairs(), secret()).prop_map(|(pairs, secret)| Step::Apply(pairs, secret)),
        (pairs(), secret()).prop_map(|(pairs, secret)| Step::Apply(pairs, secret)),
        name().prop_map(Step::Remove),
        ip().prop_map(Step::Select),
        Just(Step::Reset),
        Just(Step::ReadHeaders),
        Just(Step::Clear),
        (ip(), headers()).prop_map(|(ip, may_set)| Step::SelectFor(ip, may_set)),
        (ip(), headers()).prop_map(|(ip, may_set)| Step::SelectFor(ip, may_set)),
        (pairs(), secret(), headers()).prop_map(|(p, s, may_set)| Step::ApplyFor(p, s, may_set)),
        (pairs(), secret(), headers()).prop_map(|(p, s, may_set)| Step::ApplyFor(p, s, may_set)),
        headers().prop_map(Step::Set),
        Just(Step::Report),
        Just(Step::Report),
    ];
    prop::collection::vec(step, 1..16)
}

fn hear(host: &mut BTreeMap<String, Vec<u8>>, name: &str, value: Option<&[u8]>) {
    match value {
        Some(value) => host.insert(name.to_owned(), value.to_vec()),
        None => host.remove(name),
    };
}

fn applied(pairs: &[(&str, &str)], secret: Option<&str>) -> BackendResult {
    let mut applied = result(pairs);
    applied.totp_secret_field = secret.map(|name| name.as_bytes().into());
    applied
}

type SetOne<'a> = &'a mut dyn FnMut(&str, Option<&[u8]>) -> bool;

/// Reports to a host that sets at most `may_set` headers. If there are more, all changes are reported with
/// `take_changes`, unless the host has set none of them; nothing is reported twice.
fn tell(
    context: &mut RequestContext,
    host: &mut BTreeMap<String, Vec<u8>>,
    may_set: u32,
    report: impl FnOnce(&mut RequestContext, SetOne<'_>) -> bool,
) -> Result<(), TestCaseError> {
    let mut left = may_set;
    let mut failed = false;
    let is_told = report(context, &mut |name, value| {
        assert!(!failed, "asked again");
        failed = left == 0;
        if !failed {
            hear(host, name, value);
            left -= 1;
        }
        !failed
    });
    prop_assert_eq!(is_told, !failed);
    if is_told {
        prop_assert!(context.report(&mut |_, _| false), "told twice");
    } else if may_set.is_multiple_of(2) {
        context
            .take_changes()
            .for_each(|name, value| hear(host, name, value));
    } else {
        context.report_anew();
        host.clear();
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_host_that_heard_all_reports_has_the_headers(steps in steps()) {
        let mut context = RequestContext::new();
        let mut host = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Report]) {
            match step {
                Step::Base(pairs, secret) => {
                    let mut base = result(&pairs);
                    base.totp_secret_field = secret.map(|name| name.as_bytes().into());
                    context.set_base(base).unwrap();
                }
                Step::Apply(pairs, secret) => context.apply(&applied(&pairs, secret)).unwrap(),
                Step::Remove(name) => context.remove([name]),
                Step::Select(ip) => context.select(ip, 143),
                Step::Reset => context.reset(),
                Step::ReadHeaders => drop(header_lines(&mut context)),
                Step::Clear => {
                    context.clear();
                    host.clear();
                }
                Step::SelectFor(ip, may_set) => {
                    let told = |c: &mut RequestContext, set: SetOne<'_>| {
                        c.select(ip, 143);
                        c.report(set)
                    };
                    tell(&mut context, &mut host, may_set, told)?;
                }
                Step::ApplyFor(pairs, secret, may_set) => {
                    let result = applied(&pairs, secret);
                    let told = |c: &mut RequestContext, set: SetOne<'_>| {
                        c.apply(&result).unwrap();
                        c.report(set)
                    };
                    tell(&mut context, &mut host, may_set, told)?;
                }
                Step::Set(may_set) => {
                    tell(&mut context, &mut host, may_set, RequestContext::report)?;
                }
                Step::Report => {
                    context
                        .take_changes()
                        .for_each(|name, value| hear(&mut host, name, value));
                    let mut now = BTreeMap::new();
                    context.headers().for_each(|name, value| {
                        now.insert(name.to_owned(), value.to_vec());
                    });
                    prop_assert_eq!(&host, &now);
                }
            }
        }
    }
}

#[test]
fn a_cleared_context_is_a_new_one() {
    let mut context = RequestContext::new();
    let mut base = result(&[("base", "1"), ("other", "2")]);
    base.user_found = true;
    base.totp_secret_field = Some(b"base"[..].into());
    context.set_base(base).unwrap();
    context.apply(&with_groups(&["staff"])).unwrap();
    context
        .apply(&result(&[("a", "1"), ("b", "2"), ("c", "3")]))
        .unwrap();
    context.select("192.0.2.1", 1);
    context.remove(["base", "a"]);
    changes(&mut context);
    context.select("192.0.2.2", 2);
    context.clear();
    // Compares all fields, not only what the methods return.
    let debug = |context: &RequestContext| format!("{context:?}");
    assert_eq!(debug(&context), debug(&RequestContext::new()));
    assert_eq!(changes(&mut context), Vec::<String>::new());
    assert_eq!(context.current_result(), BackendResult::default());
}

#[test]
fn what_did_not_reach_the_host_is_reported_anew() {
    let mut context = RequestContext::new();
    context.apply(&result(&[("a", "1"), ("b", "2")])).unwrap();
    context.select("192.0.2.1", 1);
    context.remove(["c"]);
    let all = changes(&mut context);
    assert_eq!(changes(&mut context), Vec::<String>::new());
    context.report_anew();
    assert_eq!(changes(&mut context), all);
}
