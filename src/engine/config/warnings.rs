//! Warnings: what is valid in a configuration but probably not meant.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use super::duration;
use super::issue::{Issue, Path, Step};
use super::keys::{self, Key};
use super::reader::Reader;
use crate::engine::target::{Protocol, Target, TlsMode};

/// A key of a target that has no effect, or less effect than its name suggests.
pub(super) struct Doubt {
    key: &'static str,
    problem: &'static str,
}

/// A target as it was read, with what is doubtful in its table.
pub(super) type Doubted = (Arc<Target>, Vec<Doubt>);

const NO_TLS: &str = "has no effect without TLS (tls: true, or tls_mode)";
const NO_HTTP: &str = "has no effect: it is for http alone";
const NO_LOGIN: &str = "is not used: without deep_check nothing logs in";
const NO_STARTTLS: &str =
    "starttls is not tried without deep_check: the server is only connected to";
const SLOW_FAST: &str =
    "is above connect_interval: a server that failed is probed less often than a good one";

const SHORT_CONNECT: &str = "is below the service's fast_interval: a server that failed is probed less often than a good one";

/// The keys of a target that are warned of where the target makes no TLS, since they have no effect there.
/// `tls_skip_verify` is not among them: it is warned of only where it is true, since `false` is its default.
const TLS_KEYS: [&Key; 5] = [
    &keys::TLS_SERVER_NAME,
    &keys::TLS_CA_FILE,
    &keys::TLS_CERT_FILE,
    &keys::TLS_KEY_FILE,
    &keys::TLS_MIN_VERSION,
];

/// The doubts about the table of one target.
pub(super) fn of_target(reader: &Reader<'_>, target: &Target) -> Vec<Doubt> {
    let given = |key: &Key| matches!(reader.given(key), Ok(Some(_)));
    let mut doubts = Vec::new();
    let mut add = |is_doubtful: bool, key: &Key, problem| {
        if is_doubtful {
            let key = key.name;
            doubts.push(Doubt { key, problem });
        }
    };
    let is_plain = target.tls_mode == TlsMode::Plain;
    // Only `true`: `false` is the default, and so has no effect that anybody could miss.
    add(
        is_plain && target.tls_skip_verify,
        &keys::TLS_SKIP_VERIFY,
        NO_TLS,
    );
    for key in TLS_KEYS {
        add(is_plain && given(key), key, NO_TLS);
    }
    // Where starttls is sieve's default and no key says more, nobody asked for TLS.
    let asks_for_tls = [&keys::TLS_MODE, &keys::TLS_SKIP_VERIFY]
        .into_iter()
        .chain(TLS_KEYS)
        .any(given);
    let is_starttls = target.tls_mode == TlsMode::StartTls && asks_for_tls;
    add(
        is_starttls && !target.deep_check,
        &keys::TLS_MODE,
        NO_STARTTLS,
    );
    let logs_in = target.deep_check || target.test_username.is_none();
    add(!logs_in, &keys::TEST_USERNAME, NO_LOGIN);
    for key in [
        &keys::REQUEST_URI,
        &keys::HTTP_METHOD,
        &keys::HTTP_HOST,
        &keys::EXPECTED_STATUS,
    ] {
        add(
            target.protocol != Protocol::Http && given(key),
            key,
            NO_HTTP,
        );
    }
    let policy = target.policy;
    let is_slow = policy.fast_interval > policy.connect_interval;
    if given(&keys::FAST_INTERVAL) {
        add(is_slow, &keys::FAST_INTERVAL, SLOW_FAST);
    } else {
        let is_own = given(&keys::CONNECT_INTERVAL);
        add(is_own && is_slow, &keys::CONNECT_INTERVAL, SHORT_CONNECT);
    }
    doubts
}

/// The warnings of a whole section. Targets with the same doubt share one warning, which names the first
/// target and counts the others: ten thousand targets must not give ten thousand warnings.
pub(super) fn of_section(reader: &Reader<'_>, targets: &[Doubted]) -> Vec<Issue> {
    let mut warnings = Vec::new();
    warnings.extend(of_intervals(reader));
    let list = reader.path().key(reader.name_of(&keys::BACKEND_SERVERS));
    let mut groups: Vec<Group> = Vec::new();
    for (index, (_, doubts)) in targets.iter().enumerate() {
        for doubt in doubts {
            let is_same =
                |group: &&mut Group| group.key == doubt.key && group.problem == doubt.problem;
            match groups.iter_mut().find(is_same) {
                Some(group) => group.others += 1,
                None => groups.push(Group {
                    key: doubt.key,
                    problem: doubt.problem,
                    first: index,
                    others: 0,
                }),
            }
        }
    }
    warnings.extend(groups.into_iter().map(|group| {
        let problem = format!("{}{}", group.problem, and_others(group.others));
        Issue::new(problem)
            .under(Step::Key(group.key.to_owned()))
            .under(Step::item(group.first))
            .within(&list)
    }));
    warnings.extend(of_duplicates(targets, &list));
    warnings.extend(of_spellings(targets, &list));
    warnings
}

/// Targets with the same doubt.
struct Group {
    key: &'static str,
    problem: &'static str,
    /// The index of the first.
    first: usize,
    others: usize,
}

fn and_others(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (and so in 1 other server)".to_owned(),
        _ => format!(" (and so in {count} other servers)"),
    }
}

/// The service's `fast_interval`.
fn of_intervals(reader: &Reader<'_>) -> Option<Issue> {
    let fast = reader.duration(&keys::FAST_INTERVAL).ok()??;
    let connect = reader.duration_or_default(&keys::CONNECT_INTERVAL).ok()?;
    let problem = format!(
        "{} {SLOW_FAST} ({})",
        duration::text(fast),
        duration::text(connect)
    );
    (fast > connect).then(|| reader.conflict(&keys::FAST_INTERVAL, &problem))
}

/// The first target that was there before, and how many more. Two http targets at one address
/// that ask for different things are two.
fn of_duplicates(targets: &[Doubted], list: &Path) -> Option<Issue> {
    let mut seen = HashMap::new();
    let mut found: Option<(usize, usize, String)> = None;
    let mut others = 0;
    for (index, (target, _)) in targets.iter().enumerate() {
        let request = (target.protocol == Protocol::Http)
            .then(|| (&*target.request_uri, target.http_host.as_deref()));
        match seen.entry((target.key(), request)) {
            Entry::Vacant(place) => {
                place.insert(index);
            }
            Entry::Occupied(_) if found.is_some() => others += 1,
            Entry::Occupied(earlier) => {
                found = Some((index, *earlier.get(), earlier.key().0.clone()));
            }
        }
    }
    let (index, earlier, key) = found?;
    let problem = format!(
        "{key} is listed twice: it is [{}] as well{}",
        earlier + 1,
        and_others(others)
    );
    Some(Issue::new(problem).under(Step::item(index)).within(list))
}

/// The first target whose node has the name of an earlier one in another spelling, and how many more. Such names are
/// not made one: machines with other versions or other spellings would take the node for an unknown one.
fn of_spellings(targets: &[Doubted], list: &Path) -> Option<Issue> {
    let mut first_of: HashMap<String, (usize, String)> = HashMap::new();
    let mut found: Option<(usize, String)> = None;
    let mut others = 0;
    for (index, (target, _)) in targets.iter().enumerate() {
        let name = target.node();
        let spelled_alike = match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        match first_of.entry(spelled_alike) {
            Entry::Vacant(place) => {
                place.insert((index, name.into_owned()));
            }
            Entry::Occupied(first) if first.get().1 == *name => {}
            Entry::Occupied(_) if found.is_some() => others += 1,
            Entry::Occupied(first) => {
                let (first, earlier) = first.get();
                let problem = format!(
                    "{name:?} is another node than {earlier:?} of [{}], because the names are spelled differently",
                    first + 1
                );
                found = Some((index, problem));
            }
        }
    }
    let (index, problem) = found?;
    let problem = problem + &and_others(others);
    let key = Step::Key(keys::NODE.name.to_owned());
    Some(
        Issue::new(problem)
            .under(key)
            .under(Step::item(index))
            .within(list),
    )
}
