use std::cell::Cell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::engine::active::OperatorRequest;
use crate::engine::state_file::saved::SavedTarget;
use crate::engine::state_file::text::settings as settings_of;
use crate::engine::verdicts::health::{HealthState, Verdict};
use crate::engine::verdicts::{Counter, OperatorState, Setting};

fn config(text: &str) -> Arc<Config> {
    let text = format!("backend_server_monitoring: {{log: none, {text}}}");
    Arc::new(Config::from_yaml(&text, &|_| None).unwrap())
}

fn prepared(text: &str, before: Option<&Arc<ActiveConfig>>) -> Arc<ActiveConfig> {
    let state = StartState::default();
    Arc::new(ActiveConfig::succeed(before, config(text), 1, true, state).unwrap())
}

fn active(text: &str, before: Option<&Arc<ActiveConfig>>) -> Arc<ActiveConfig> {
    let active = prepared(text, before);
    active.come_into_force(1, None);
    active
}

const TARGET: &str = "{protocol: imap, host: 127.0.0.1, port: 1, deep_check: true}";

/// The digests need OpenSSL, which may be a copy of the host's.
#[test]
fn names_of_nodes_have_digests_only_where_there_is_a_store() {
    let digest = |store: &str| {
        let text = format!("{store} backend_servers: [{{protocol: imap, host: a}}]");
        let active = active(&text, None);
        let node = active.nodes().next().unwrap();
        (node.digest, active.node_by_digest(node.digest).is_some())
    };
    assert_eq!(digest("").0, 0);
    // The first 64 bits of the SHA-1 of `a`, FIPS 180.
    let with_store = digest("cluster: {redis: 'redis://127.0.0.1'},");
    assert_eq!(with_store, (0x86f7_e437_faa5_a7fc, true));
}

/// The prober publishes while a configuration is put in force: neither change is lost.
#[test]
fn a_record_that_was_published_in_between_is_changed_and_not_overwritten() {
    let active = active(&format!("backend_servers: [{TARGET}]"), None);
    let slot = active.slots[0];
    let tries = Cell::new(0);
    let is_changed = active.change(slot, |known| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            let published = Record {
                probes: 7,
                ..known.clone()
            };
            active.table.write(slot, &published, false);
        }
        Some(Record {
            failures: 3,
            ..known.clone()
        })
    });
    assert!(is_changed);
    assert_eq!(tries.get(), 2);
    let record = active.table.read(slot);
    assert_eq!((record.probes, record.failures), (7, 3));
    assert!(!active.change(slot, |_| None));
}

#[test]
fn a_second_health_state_comes_and_goes_with_its_interval_and_keeps_the_verdict() {
    let one = active(&format!("backend_servers: [{TARGET}]"), None);
    let slot = one.slots[0];
    one.change(slot, |known| {
        let mut record = known.clone();
        record.connect.verdict = Verdict::Dead;
        record.connect.failures = 5;
        record.connect.refusals = 4;
        Some(record)
    });
    let own_interval = format!("deep_interval: 1h, backend_servers: [{TARGET}]");
    let two = active(&own_interval, Some(&one));
    let record = two.table.read(two.slots[0]);
    // Only the deep probes log in.
    assert_eq!(record.connect.refusals, 0);
    let of_both = HealthState {
        refusals: 4,
        ..record.connect
    };
    assert_eq!(record.deep, Some(of_both));
    assert_eq!(record.verdict(), Verdict::Dead);
    let three = active(&format!("backend_servers: [{TARGET}]"), Some(&two));
    let record = three.table.read(three.slots[0]);
    assert_eq!(record.deep, None);
    assert_eq!(record.verdict(), Verdict::Dead);
    assert_eq!((record.connect.failures, record.connect.refusals), (5, 4));
}

fn target(port: u16, keys: &str) -> String {
    format!("{{protocol: imap, host: 127.0.0.1, port: {port}, deep_check: true{keys}}}")
}

fn targets(targets: &[String]) -> String {
    format!("backend_servers: [{}]", targets.join(", "))
}

/// Publishes a record with these numbers, as a prober does.
fn publish(active: &ActiveConfig, at: usize, verdict: Verdict, probes: u64) {
    let slot = active.slots[at];
    active.change(slot, |known| {
        let mut record = known.clone();
        record.connect.verdict = verdict;
        record.probes = probes;
        Some(record)
    });
}

fn known(active: &ActiveConfig, at: usize) -> (Verdict, u64) {
    let record = active.table.read(active.slots[at]);
    (record.verdict(), record.probes)
}

/// A script that has waited for verdicts must not get a list or a route without them.
#[test]
fn it_is_ready_when_routing_has_the_verdicts_too() {
    let active = active(&targets(&[target(1, "")]), None);
    let slot = active.slots[0];
    assert!(!active.is_ready());
    let mut record = active.table.read(slot);
    record.connect.verdict = Verdict::Dead;
    active.table.write(slot, &record, true);
    assert!(!active.is_ready());
    active.note_routable(slot, Verdict::Dead);
    assert!(active.is_ready());
}

/// What nginx does where it refuses a reload after `init_by_lua`.
#[test]
fn a_configuration_that_never_comes_into_force_changes_nothing_for_others() {
    let password = ", test_username: u, test_password: ";
    let first = [
        target(1, &format!("{password}a")),
        target(2, ""),
        target(3, ""),
    ];
    let one = active(&targets(&first), None);
    publish(&one, 0, Verdict::Dead, 3);
    publish(&one, 1, Verdict::Dead, 4);
    let mut saved = SavedTarget::default();
    saved.record.probes = 7;
    let saved = Saved {
        saved_ms: clock::unix_ms(),
        targets: HashMap::from([(one.table.hash(one.slots[2]), saved)]),
        ..Saved::default()
    };
    let words = |active: &ActiveConfig| {
        let records = active.slots.iter().map(|slot| active.table.read(*slot));
        let (epoch, events) = (active.table.epoch(), active.table.events_after(0).events);
        let generation = active.generation();
        (records.collect::<Vec<_>>(), epoch, events.len(), generation)
    };
    let before = words(&one);
    let second = [
        target(9, ""),
        target(1, &format!("{password}b")),
        first[1].clone(),
    ];
    let second = format!("deep_interval: 1h, {}", targets(&second));
    let state = StartState {
        saved: Some(saved),
        ..StartState::default()
    };
    let two = ActiveConfig::succeed(Some(&one), config(&second), 1, true, state).unwrap();
    let two = Arc::new(two);
    assert!(Arc::ptr_eq(&one.table, &two.table));
    assert_eq!(words(&one), before);
    assert!(one.is_in_force() && !two.is_in_force());

    // Verdicts change before the next reload, which is not refused.
    publish(&one, 1, Verdict::Alive, 8);
    publish(&one, 2, Verdict::Dead, 9);
    let three = prepared(&targets(&first), Some(&two));
    let expected = [(Verdict::Dead, 3), (Verdict::Alive, 8), (Verdict::Dead, 9)];
    for _ in 0..2 {
        three.come_into_force(1, None);
        assert_eq!([0, 1, 2].map(|at| known(&three, at)), expected);
    }
    assert_eq!(three.table.epoch(), three.epoch);
    // A process that was late with the one before does not put it in force.
    two.come_into_force(1, None);
    assert_eq!(three.table.epoch(), three.epoch);
    let reloads = three.table.events_after(0).events;
    let is_reload = |event: &&Event| event.kind == EventKind::Reload;
    assert_eq!(reloads.iter().filter(is_reload).count(), 1);
    assert_eq!(known(&two, 1), (Verdict::Unknown, 0), "another password");
}

#[test]
fn a_full_table_stays_in_use_until_its_replacement_is_in_force() {
    let few = targets(&[target(1, ""), target(2, "")]);
    let ports = 1..=u16::try_from(2 * SPARE_SLOTS).unwrap();
    let many = targets(&ports.map(|port| target(port, "")).collect::<Vec<_>>());
    let one = active(&few, None);
    publish(&one, 0, Verdict::Alive, 3);
    one.table.count(Counter::Takeovers, 2);
    let two = prepared(&many, Some(&one));
    assert!(!Arc::ptr_eq(&one.table, &two.table));
    assert_eq!(one.table.epoch(), one.epoch);
    assert_eq!(known(&two, 0), (Verdict::Alive, 3));

    let drain = |active: &ActiveConfig| {
        let wanted = OperatorRequest {
            what: "imap://127.0.0.1:2".to_owned(),
            setting: Setting::State(OperatorState::Drain),
            reason: String::new(),
            by: String::new(),
            lasting: None,
        };
        active.operate(wanted).unwrap();
    };
    publish(&one, 0, Verdict::Dead, 4);
    one.table.count(Counter::Takeovers, 1);
    drain(&one);
    // The next configuration is made from the one in force, in the table that nobody used.
    let three = prepared(&format!("connect_interval: 7s, {many}"), Some(&two));
    assert_eq!(known(&three, 0), (Verdict::Dead, 4));
    publish(&one, 0, Verdict::Alive, 5);
    one.table.count(Counter::Takeovers, 1);
    let generation = three.generation();
    for _ in 0..2 {
        three.come_into_force(1, None);
        assert_eq!(known(&three, 0), (Verdict::Alive, 5));
        assert_eq!(three.table.count_of(Counter::Takeovers), 4);
        assert_eq!(three.operators_in_force().len(), 1);
    }
    assert!(three.generation() > generation);
    assert_eq!(
        (one.table.epoch(), three.table.epoch()),
        (RETIRED, three.epoch)
    );
    // What was found out since is not replaced by another process that starts.
    publish(&three, 0, Verdict::Dead, 6);
    three.come_into_force(1, None);
    assert_eq!(known(&three, 0), (Verdict::Dead, 6));
    assert!(two.is_in_force(), "it was replaced");
}

/// Several workers start at the same time: each finds the work to be done.
#[test]
fn a_replacement_is_copied_by_one_process_alone() {
    let few = targets(&[target(1, "")]);
    let ports = 1..=u16::try_from(2 * SPARE_SLOTS).unwrap();
    let many = targets(&ports.map(|port| target(port, "")).collect::<Vec<_>>());
    let one = active(&few, None);
    let two = prepared(&many, Some(&one));
    publish(&one, 0, Verdict::Dead, 4);
    // Process 1 exists, and has begun to copy.
    two.table.lend_lease(1);
    let own_pid = u64::from(std::process::id());
    two.come_into_force(own_pid, None);
    assert_eq!((two.table.epoch(), known(&two, 0).0), (0, Verdict::Unknown));
    assert!(!two.is_in_force());
    // It ends before it has finished.
    two.table.lend_lease(0);
    two.come_into_force(own_pid, None);
    assert_eq!(two.table.epoch(), two.epoch);
    assert_eq!(known(&two, 0), (Verdict::Dead, 4));
}

const WITH_PASSWORD: &str =
    "protocol: imap, host: 127.0.0.1, port: 1, deep_check: true, test_username: u";

fn with_password(password: &str, interval: &str) -> Arc<Config> {
    config(&format!(
        "connect_interval: {interval}, backend_servers: [{{{WITH_PASSWORD}, test_password: {password}}}]"
    ))
}

/// What a state file says after a probe that started at this time, in `CLOCK_MONOTONIC`
/// nanoseconds, and was refused.
fn saved_refusal(active: &ActiveConfig, started_ns: u64) -> Saved {
    let mut target = SavedTarget {
        settings: settings_of(&active.config, &active.config.targets[0]).into(),
        ..SavedTarget::default()
    };
    target.record.probes = 4;
    target.record.connect.verdict = Verdict::Dead;
    target.record.connect_started_ns = started_ns;
    target.record.error = Some("auth: refused: no".to_owned());
    Saved {
        saved_ms: clock::unix_ms(),
        targets: HashMap::from([(active.table.hash(active.slots[0]), target)]),
        ..Saved::default()
    }
}

#[test]
fn another_password_takes_no_verdict_of_the_one_before_from_the_state_file() {
    let first = with_password("a", "10s");
    let first = ActiveConfig::succeed(None, first, 1, true, StartState::default()).unwrap();
    let first = Arc::new(first);
    let probed_ns = clock::monotonic_ns();
    let succeed = |before: Option<&Arc<ActiveConfig>>, password: &str, interval: &str, pid: u64| {
        let state = StartState {
            saved: Some(saved_refusal(&first, probed_ns)),
            ..StartState::default()
        };
        let config = with_password(password, interval);
        let next = ActiveConfig::succeed(before, config, pid, pid == 1, state).unwrap();
        next.come_into_force(pid, None);
        Arc::new(next)
    };
    let record = |active: &ActiveConfig| active.table.read(active.slots[0]);
    let changed = succeed(Some(&first), "b", "10s", 1);
    assert_eq!(record(&changed), Record::default());
    // Before the first probe with the new password, the configuration is changed again.
    let again = succeed(Some(&changed), "b", "20s", 1);
    assert_eq!(record(&again), Record::default());
    // In another process, which makes a table of its own.
    let elsewhere = succeed(Some(&first), "b", "10s", 2);
    assert_eq!(record(&elsewhere), Record::default());
    // The password that the process has had all along, and a process that has had none.
    let is_restored = |active: Arc<ActiveConfig>| record(&active).verdict() == Verdict::Dead;
    assert!(is_restored(succeed(Some(&first), "a", "20s", 2)));
    assert!(is_restored(succeed(None, "b", "10s", 1)));

    let served = again.follow(&saved_refusal(&again, probed_ns));
    assert!(served.targets.is_empty());
    assert_eq!(record(&again), Record::default());
    let later_ns = clock::monotonic_ns() + 1_000_000_000;
    let served = again.follow(&saved_refusal(&again, later_ns));
    assert_eq!(served.targets.len(), 1);
    assert_eq!(record(&again).verdict(), Verdict::Dead);
}

/// The prober of the configuration before runs until another one is in force, here on another
/// thread.
#[test]
fn another_password_takes_no_outcome_of_the_one_before() {
    // Many targets, so that there is time for outcomes while the configuration changes.
    let others: String = (2..100)
        .map(|port| format!(", {{protocol: imap, host: 127.0.0.1, port: {port}}}"))
        .collect();
    let [old, new] = ["a", "b"].map(|password| {
        let target = format!("{{{WITH_PASSWORD}, test_password: {password}}}");
        config(&format!("backend_servers: [{target}{others}]"))
    });
    for _ in 0..5 {
        let state = StartState::default();
        let first = ActiveConfig::succeed(None, old.clone(), 1, true, state).unwrap();
        let first = Arc::new(first);
        let (slot, target) = (first.slots[0], &first.config.targets[0]);
        let publish = || {
            let (seen, before) = first.table.read_seen(slot);
            let mut after = before.clone();
            after.probes += 1;
            first.publish(target, slot, (seen, &before), &after, None)
        };
        assert!(publish());
        let is_over = AtomicBool::new(false);
        let second = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    publish();
                }
            });
            while first.table.read(slot).probes < 2 {
                std::thread::yield_now();
            }
            let state = StartState::default();
            let second = ActiveConfig::succeed(Some(&first), new.clone(), 1, true, state);
            let second = second.unwrap();
            second.come_into_force(1, None);
            is_over.store(true, Relaxed);
            second
        });
        assert!(!publish());
        assert_eq!(second.table.read(second.slots[0]).probes, 0);
    }
}
