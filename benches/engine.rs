//! The cost of parts of the engine, without Lua, host or network: `cargo bench --bench engine`.
//! They have no baseline; they show which part has changed when a row of the table has changed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use nauthilus_backend::engine::config::Config;
use nauthilus_backend::engine::request::context::RequestContext;
use nauthilus_backend::engine::request::result::{
    AttributeValue, Attributes, BackendResult, Scalar,
};
use nauthilus_backend::engine::verdicts::{Record, VerdictTable, hash_identity};

/// One target's record in the memory that processes share.
fn verdicts(c: &mut Criterion) {
    let table = VerdictTable::new(1000).unwrap();
    let identities: Vec<_> = (0..1000)
        .map(|n| hash_identity(&format!("imap://192.0.2.1:{n}")))
        .collect();
    let slots = table.assign(&identities, |_| None).unwrap();
    let slot = slots[500];
    let record = Record {
        probes: 7,
        latency: Some(Duration::from_millis(2)),
        address: Some([192, 0, 2, 1].into()),
        ..Record::default()
    };
    c.bench_function("verdict table: write a record", |b| {
        b.iter(|| table.write(slot, black_box(&record), false));
    });
    c.bench_function("verdict table: read a record", |b| {
        b.iter(|| table.read(black_box(slot)));
    });
    c.bench_function("verdict table: read verdict and address", |b| {
        b.iter(|| table.read_brief(black_box(slot)));
    });
    c.bench_function("verdict table: read the generation", |b| {
        b.iter(|| black_box(&table).generation());
    });
}

fn configuration(c: &mut Criterion) {
    let mut text = "backend_server_monitoring:\n  backend_servers:\n".to_owned();
    for n in 0..1000 {
        let (a, b) = (n / 250, n % 250);
        writeln!(
            text,
            "    - {{ protocol: imap, host: 192.0.{a}.{b}, port: 993, tls: true }}"
        )
        .unwrap();
    }
    c.bench_function("configuration: YAML of 1,000 targets", |b| {
        b.iter(|| Config::from_yaml(black_box(&text), &|_| None).unwrap());
    });
}

/// One request without the Lua around it: select, apply two attributes, remove one, headers.
fn request(c: &mut Criterion) {
    let text = |value: &str| AttributeValue::One(Scalar::Bytes(value.as_bytes().into()));
    let mut result = BackendResult::default();
    result.attributes = Attributes::from_pairs(vec![
        (b"hostip"[..].into(), text("192.0.2.1")),
        (b"account"[..].into(), text("user@example.org")),
    ]);
    c.bench_function("context: select, apply, remove, headers", |b| {
        b.iter(|| {
            let mut context = RequestContext::new();
            context.select("192.0.2.1", 993);
            context.apply(black_box(&result)).unwrap();
            context.remove(["Proxy-Host"]);
            let mut bytes = 0;
            context
                .headers()
                .for_each(|name, value| bytes += name.len() + value.len());
            bytes
        });
    });
}

criterion_group!(benches, verdicts, configuration, request);
criterion_main!(benches);
