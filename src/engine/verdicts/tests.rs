use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use super::health::{HealthState, Verdict};
use super::layout::*;
use super::*;

fn record() -> Record {
    Record {
        connect: HealthState {
            verdict: Verdict::Alive,
            failures: 1,
            successes: 2,
            refusals: 0,
        },
        deep: Some(HealthState {
            verdict: Verdict::Dead,
            failures: 9,
            successes: 0,
            refusals: 7,
        }),
        since_ms: 1_700_000_000_000,
        probes: 10,
        failures: 3,
        changes: 4,
        connect_started_ns: 5,
        deep_started_ns: 6,
        latency: Some(Duration::ZERO),
        address: Some("2001:db8::1".parse().unwrap()),
        not_after: Some(-5),
        certificate_logged_ms: 1_700_000_000_001,
        error: Some("connect: timed out after 5s".into()),
    }
}

#[test]
fn a_record_reads_as_it_was_written() {
    let table = VerdictTable::new(4).unwrap();
    let slots = table
        .assign(&[hash_identity("a"), hash_identity("b")], |_| None)
        .unwrap();
    assert_eq!(table.read(slots[1]), Record::default());
    table.write(slots[1], &record(), false);
    assert_eq!(table.read(slots[1]), record());
    assert_eq!(table.read(slots[0]), Record::default());
    let v4 = Record {
        address: Some("192.0.2.7".parse().unwrap()),
        deep: None,
        error: None,
        ..record()
    };
    table.write(slots[1], &v4, false);
    assert_eq!(table.read(slots[1]), v4);
    assert_eq!(table.read_brief(slots[1]), (Verdict::Alive, v4.address));
}

#[test]
fn long_errors_are_cut_between_characters() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let text = "é".repeat(ERROR_MAX);
    table.write(
        slot,
        &Record {
            error: Some(text.clone()),
            ..Record::default()
        },
        false,
    );
    let kept = table.read(slot).error.unwrap();
    assert_eq!(kept.len(), ERROR_MAX);
    assert!(text.starts_with(&kept));
}

#[test]
fn errors_do_not_run_into_one_another() {
    let table = VerdictTable::new(3).unwrap();
    let slots = table
        .assign(&["a", "b", "c"].map(hash_identity), |_| None)
        .unwrap();
    let said = |slot: usize| Record {
        error: Some(["a", "b", "c"][slot].repeat(ERROR_MAX)),
        ..record()
    };
    for (at, slot) in slots.iter().enumerate() {
        table.write(*slot, &said(at), false);
    }
    for (at, slot) in slots.iter().enumerate() {
        assert_eq!(table.read(*slot), said(at));
    }
}

#[test]
fn only_changes_move_the_generation() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    table.write(slot, &record(), false);
    assert_eq!(table.generation(), 0);
    table.write(slot, &record(), true);
    assert_eq!(table.generation(), 1);
}

#[test]
fn slots_are_found_by_identity_and_run_out() {
    let table = VerdictTable::new(2).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(hash_identity);
    let first = table.assign(&[a, b], |_| None).unwrap();
    let kept = |hash: &IdentityHash| {
        let mut known = first.iter().copied();
        known.find(|slot| table.hash(*slot) == *hash)
    };
    assert_eq!(table.assign(&[b, a], kept).unwrap(), [first[1], first[0]]);
    assert_eq!(table.assign(&[a, a], kept).unwrap(), [first[0], first[0]]);
    assert!(table.assign(&[a, c], kept).is_none());
}

#[test]
fn an_identity_whose_slot_is_not_kept_gets_an_empty_one() {
    let table = VerdictTable::new(2).unwrap();
    let a = hash_identity("a");
    let first = table.assign(&[a], |_| None).unwrap()[0];
    table.write(first, &record(), false);
    table.note_tls(first, "x");
    let second = table.assign(&[a, a], |_| None).unwrap();
    assert_eq!(second[0], second[1]);
    assert_ne!(first, second[0]);
    assert_eq!(table.read(second[0]), Record::default());
    assert_eq!(table.tls(second[0]), None);
    assert_eq!((table.read(first), table.hash(second[0])), (record(), a));
}

#[test]
fn a_reader_never_sees_half_a_record() {
    let table = Arc::new(VerdictTable::new(1).unwrap());
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (table, stop) = (table.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Relaxed) {
                n += 1;
                let record = Record {
                    probes: n,
                    failures: n,
                    since_ms: n,
                    ..Record::default()
                };
                table.write(slot, &record, n % 8 == 0);
                // A prober that writes without a pause would starve every reader.
                (0..2000).for_each(|_| std::hint::spin_loop());
            }
        })
    };
    for _ in 0..200_000 {
        let seen = table.read(slot);
        assert_eq!((seen.probes, seen.since_ms), (seen.failures, seen.failures));
    }
    stop.store(true, Relaxed);
    writer.join().unwrap();
}

#[test]
fn two_writers_do_not_mix_their_records() {
    let table = Arc::new(VerdictTable::new(1).unwrap());
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let together = Arc::new(std::sync::Barrier::new(3));
    let writers: Vec<_> = [1, 2]
        .into_iter()
        .map(|n| {
            let (table, together) = (table.clone(), together.clone());
            std::thread::spawn(move || {
                let record = Record {
                    probes: n,
                    failures: n,
                    error: Some(n.to_string().repeat(ERROR_MAX)),
                    ..Record::default()
                };
                for _ in 0..1000 {
                    together.wait();
                    table.write(slot, &record, true);
                    together.wait();
                }
            })
        })
        .collect();
    for round in 1..=1000 {
        together.wait();
        together.wait();
        let seen = table.read(slot);
        assert_eq!(seen.probes, seen.failures);
        assert_eq!(
            seen.error,
            Some(seen.probes.to_string().repeat(ERROR_MAX)[..ERROR_MAX].to_owned())
        );
        assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed), 4 * round);
    }
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn a_writer_takes_over_from_one_that_died() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let dead = table.begin(table.word(slot, SLOT_SEQUENCE));
    table.write(slot, &record(), true);
    assert_eq!(table.read(slot), record());
    assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
    // The writer was only stopped: when it goes on, its change of the number fails.
    assert!(!table.end(table.word(slot, SLOT_SEQUENCE), dead));
    assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
    assert_eq!(table.read(slot), record());
}

#[test]
fn only_the_number_that_stood_still_is_taken_over() {
    // Writers that end in time, one after the other, must not be taken for one dead writer: each
    // `end` succeeds.
    let table = Arc::new(VerdictTable::new(1).unwrap());
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let table = table.clone();
            std::thread::spawn(move || {
                let sequence = table.word(slot, SLOT_SEQUENCE);
                (0..200).all(|_| {
                    let ticket = table.begin(sequence);
                    std::thread::sleep(Duration::from_micros(50));
                    table.end(sequence, ticket)
                })
            })
        })
        .collect();
    let ends = writers.into_iter().map(|writer| writer.join().unwrap());
    assert_eq!(ends.filter(|kept| !kept).count(), 0);
}

#[test]
fn a_writer_that_died_is_outlived_and_repaired() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    table.write(slot, &record(), true);
    let list = table.begin(table.header(SEQUENCE));
    let ticket = table.begin(table.word(slot, SLOT_SEQUENCE));
    assert_eq!(table.read(slot), record());
    let before = table.generation();
    assert!(table.claim_lease(77, None).unwrap().is_ours());
    assert!(table.generation() > before);
    let is_even = |word: &AtomicU64| word.load(Relaxed).is_multiple_of(2);
    assert!(is_even(table.word(slot, SLOT_SEQUENCE)) && is_even(table.header(SEQUENCE)));
    // The writer was only stopped: when it goes on, its changes of both numbers fail.
    assert!(!table.end(table.word(slot, SLOT_SEQUENCE), ticket));
    assert!(!table.end(table.header(SEQUENCE), list));
    assert!(is_even(table.word(slot, SLOT_SEQUENCE)) && is_even(table.header(SEQUENCE)));
}

#[test]
fn an_outcome_from_before_a_takeover_is_not_written() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let (seen, before) = table.read_seen(slot);
    assert!(table.claim_lease(77, None).unwrap().is_ours());
    assert!(!table.write_seen(slot, seen, &record(), true, None));
    assert_eq!(table.read(slot), before);
    let (seen, _) = table.read_seen(slot);
    assert!(table.write_seen(slot, seen, &record(), true, None));
    assert_eq!(table.read(slot), record());
}

#[test]
fn a_writer_that_finds_its_record_taken_asks_for_a_probe() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
    let ticket = table.begin(table.word(slot, SLOT_SEQUENCE));
    assert!(table.claim_lease(77, None).unwrap().is_ours());
    table.write_begun(slot, ticket, &record(), true, None);
    assert_ne!(table.reports(slot), table.answered(slot));
    assert_eq!(table.wakes(), 1);
}

// Ids of two processes that exist, so that neither counts as dead: this process and process 1.
const FIRST: u64 = 1;

fn own_pid() -> u64 {
    u64::from(std::process::id())
}

fn check(table: &VerdictTable, patience: &mut Patience, pid: u64) -> bool {
    let mut standby = Standby {
        patience,
        pause: Duration::from_millis(10),
        within: Duration::from_millis(60),
    };
    table
        .claim_lease(pid, Some(&mut standby))
        .unwrap()
        .is_ours()
}

#[test]
fn a_lease_passes_on_when_its_holder_is_silent() {
    // Both claims come from this process, which its own lock never refuses: only the lease decides.
    let table = VerdictTable::new(1).unwrap();
    assert!(table.claim_lease(own_pid(), None).unwrap().is_ours());
    table.set_probing(own_pid(), true);
    assert_eq!(table.prober(), own_pid());
    // The state of a process that took over from a stopped one.
    let word = table.header(LEASE);
    word.store(word.load(Relaxed) & !(1 << 33), Relaxed);
    table.mine.store(0, Relaxed);
    let mut patience = Patience::default();
    for _ in 0..20 {
        table.beat();
        std::thread::sleep(Duration::from_millis(1));
        assert!(!check(&table, &mut patience, FIRST));
    }
    // Time in which this process itself was late does not count.
    std::thread::sleep(Duration::from_millis(200));
    assert!(!check(&table, &mut patience, FIRST));
    let mut checks = 0;
    while !check(&table, &mut patience, FIRST) {
        checks += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    // At least two thirds of 60 ms, at most 15 ms of which count each time.
    assert!((1..10).contains(&checks), "{checks}");
    assert_eq!(table.prober(), 0);
    table.set_probing(FIRST, true);
    assert_eq!(table.prober(), FIRST);
}

#[test]
fn a_lease_that_was_given_up_is_free() {
    let table = VerdictTable::new(1).unwrap();
    assert!(table.claim_lease(own_pid(), None).unwrap().is_ours());
    assert!(table.has_lease(own_pid()));
    table.give_up_lease(own_pid());
    assert!(!table.has_lease(own_pid()));
    assert_eq!(table.prober(), 0);
    assert!(table.claim_lease(FIRST, None).unwrap().is_ours());
    // The lease of another process stays.
    table.give_up_lease(own_pid());
    assert!(table.has_lease(FIRST));
}

#[test]
fn the_layout_says_what_it_is() {
    let table = VerdictTable::new(3).unwrap();
    assert_eq!(
        table.header(MAGIC_WORD).load(Relaxed).to_be_bytes(),
        *b"nbtable\0"
    );
    assert_eq!(table.header(VERSION_WORD).load(Relaxed), VERSION);
    assert_eq!(table.header(CAPACITY_WORD).load(Relaxed), 3);
    // Slots fill whole cache lines, and texts fit their words.
    let places = Places::of(3).unwrap();
    assert_eq!(places.slots % 8, 0);
    assert_eq!(Places::of(usize::MAX), None);
}
