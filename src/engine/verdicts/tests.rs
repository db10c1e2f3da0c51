use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::health::{Gate, Verdict};
use super::layout::*;
use super::*;

fn record() -> Record {
    Record {
        connect: Gate {
            verdict: Verdict::Alive,
            failures: 1,
            successes: 2,
        },
        deep: Some(Gate {
            verdict: Verdict::Dead,
            failures: 9,
            successes: 0,
        }),
        since_ms: 1_700_000_000_000,
        probes: 10,
        failures: 3,
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
        .assign(&[hash_identity("a"), hash_identity("b")])
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
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
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
    let slots = table.assign(&["a", "b", "c"].map(hash_identity)).unwrap();
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
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
    table.write(slot, &record(), false);
    assert_eq!(table.generation(), 0);
    table.write(slot, &record(), true);
    assert_eq!(table.generation(), 1);
}

#[test]
fn slots_are_found_by_identity_and_run_out() {
    let table = VerdictTable::new(2).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(hash_identity);
    let first = table.assign(&[a, b]).unwrap();
    assert_eq!(table.assign(&[b, a]).unwrap(), [first[1], first[0]]);
    assert_eq!(table.assign(&[a, a]).unwrap(), [first[0], first[0]]);
    assert!(table.assign(&[a, c]).is_none());
}

#[test]
fn reports_are_limited_in_rate() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
    let gap = Duration::from_millis(100);
    assert!(table.report(slot, 1_000, gap));
    assert!(!table.report(slot, 99_000_000, gap));
    assert!(table.report(slot, 101_000_000, gap));
    assert!(table.take_reports(slot));
    assert!(!table.take_reports(slot));
    assert_eq!(table.wakes(), 2);
}

#[test]
fn a_reader_never_sees_half_a_record() {
    let table = Arc::new(VerdictTable::new(1).unwrap());
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
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
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
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
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
    table.begin(table.word(slot, SLOT_SEQUENCE));
    table.write(slot, &record(), true);
    assert_eq!(table.read(slot), record());
    assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
}

#[test]
fn a_writer_that_died_is_outlived_and_repaired() {
    let table = VerdictTable::new(1).unwrap();
    let slot = table.assign(&[hash_identity("a")]).unwrap()[0];
    table.write(slot, &record(), true);
    table.begin(table.header(SEQUENCE));
    table.begin(table.word(slot, SLOT_SEQUENCE));
    assert_eq!(table.read(slot), record());
    let before = table.generation();
    assert!(table.try_lock().unwrap());
    table.announce(77);
    assert!(table.generation() > before);
    assert_eq!(table.word(slot, SLOT_SEQUENCE).load(Relaxed) % 2, 0);
    assert_eq!(table.header(SEQUENCE).load(Relaxed) % 2, 0);
    table.silence(77);
    table.unlock();
    assert_eq!(table.prober(), 0);
}
