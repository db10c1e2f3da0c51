//! The engine against real listeners on loopback. One process has one engine: the steps
//! share it and run in turn.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::config::{
    Config, ConfigOrigin, InitialState, LogSink, RoutingSettings, Timeouts, TlsFiles,
};
use nauthilus_backend::engine::process::{Start, current};
use nauthilus_backend::engine::target::{Host, ProbePolicy, Protocol, Target};

const INTERVAL: Duration = Duration::from_millis(200);
const FAST: Duration = Duration::from_millis(50);

const POLICY: ProbePolicy = ProbePolicy {
    connect_interval: INTERVAL,
    deep_interval: INTERVAL,
    fast_interval: FAST,
    failure_threshold: 2,
    recovery_threshold: 2,
};

/// The same target with other intervals.
fn with_policy(target: Arc<Target>, policy: ProbePolicy) -> Arc<Target> {
    Arc::new(Target {
        policy,
        ..(*target).clone()
    })
}

fn target(port: u16) -> Arc<Target> {
    const SHORT: Duration = Duration::from_millis(300);
    let host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Arc::new(Target {
        connect_timeout: SHORT,
        tls_timeout: SHORT,
        deep_timeout: SHORT,
        policy: POLICY,
        ..Target::new(Protocol::Imap, host, port)
    })
}

fn config(targets: Vec<Arc<Target>>) -> Config {
    Config {
        timeouts: Timeouts::default(),
        helo_name: None,
        policy: POLICY,
        panic_threshold: 0,
        initial_state: InitialState::Alive,
        max_concurrent_probes: 16,
        expose_attributes: Vec::new(),
        routing: RoutingSettings::default(),
        cluster: None,
        state_file: None,
        state_max_age: Duration::from_secs(300),
        tls_full_handshake_interval: Duration::from_secs(3600),
        cert_warn: Duration::from_secs(14 * 86_400),
        log: LogSink::None,
        targets,
        tls_files: TlsFiles::default(),
        warnings: Vec::new(),
        origin: ConfigOrigin::default(),
    }
}

fn ports() -> Vec<u16> {
    let snapshot = current().snapshot(Start::Allowed);
    snapshot.servers.iter().map(|s| s.target.port).collect()
}

fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// How long anything may take that has no deadline of its own, on a busy machine as well.
const IN_TIME: Duration = Duration::from_secs(60);

/// A busy machine may delay a single attempt beyond its limit: one of five has to keep it.
fn in_one_of_five(mut attempt: impl FnMut() -> Result<(), String>) {
    let failures: Vec<String> = (0..5).map_while(|_| attempt().err()).collect();
    assert!(failures.len() < 5, "{failures:?}");
}

#[allow(clippy::unwrap_used)] // A test's helper.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn verdicts_follow_the_listeners() {
    let (first, a) = listener();
    let (_second, b) = listener();
    let engine = current();
    assert!(engine.snapshot(Start::Allowed).servers.is_empty());
    engine
        .configure(config(vec![target(a), target(b)]), false)
        .unwrap();
    assert_eq!(ports(), [a, b], "presumed alive before the first verdict");
    assert_eq!(engine.wait_ready(Some(IN_TIME)), Ok(true));
    assert_eq!(ports(), [a, b]);
    assert!(engine.is_prober());
    let generation = engine.snapshot(Start::Allowed).generation;

    drop(first);
    eventually("a dead listener leaves", IN_TIME, || ports() == [b]);
    assert_eq!(engine.snapshot(Start::Allowed).generation, generation + 1);
    let status = engine.active(Start::Allowed).unwrap().targets();
    assert_eq!(
        status[0].record.error.as_deref(),
        Some("connect: connection refused")
    );

    let _first = TcpListener::bind(("127.0.0.1", a)).unwrap();
    eventually("a listener comes back", IN_TIME, || ports() == [a, b]);
    let mut changing = Some(_first);
    in_one_of_five(|| {
        drop(changing.take());
        let died = eventually("a dead listener leaves", IN_TIME, || ports() == [b]);
        changing = Some(TcpListener::bind(("127.0.0.1", a)).unwrap());
        let came = eventually("a listener comes back", IN_TIME, || ports() == [a, b]);
        if died < INTERVAL + FAST * 3 && came < FAST * 6 {
            return Ok(());
        }
        Err(format!("left after {died:?}, back after {came:?}"))
    });

    // An unchanged target keeps its verdict when its place in the list changes; a new one is
    // presumed alive.
    let (third, c) = listener();
    drop(third);
    let probes = |index: usize| {
        engine.active(Start::Allowed).unwrap().targets()[index]
            .record
            .probes
    };
    let before = probes(1);
    engine
        .configure(config(vec![target(b), target(c)]), false)
        .unwrap();
    assert!(probes(0) >= before);
    assert_eq!(ports(), [b, c]);
    eventually("the refused one leaves", IN_TIME, || ports() == [b]);

    // A report causes a probe at once, whatever the interval.
    in_one_of_five(|| {
        let listening = changing.take();
        let listening = listening.unwrap_or_else(|| TcpListener::bind(("127.0.0.1", a)).unwrap());
        let quick = config(vec![target(a), target(b)]);
        engine.configure(quick, false).unwrap();
        eventually("both are alive", IN_TIME, || ports() == [a, b]);
        let hour = ProbePolicy {
            connect_interval: Duration::from_secs(3600),
            fast_interval: Duration::from_secs(60),
            ..POLICY
        };
        let slow = config([a, b].map(|port| with_policy(target(port), hour)).into());
        engine.configure(slow, false).unwrap();
        drop(listening);
        let active = engine.active(Start::Allowed).unwrap();
        assert!(!active.report_failure("127.0.0.1", 1));
        assert!(active.report_failure("127.0.0.1", a));
        let took = eventually("a reported one leaves", IN_TIME, || ports() == [b]);
        if took < Duration::from_millis(50) {
            return Ok(());
        }
        Err(format!("took {took:?}"))
    });

    let check = engine.check(target(a), true);
    assert_eq!(
        check.wait(Some(IN_TIME)),
        Some(Err("connect: connection refused".to_owned()))
    );
    assert_eq!(
        engine.check(target(b), true).wait(Some(IN_TIME)),
        Some(Ok(()))
    );

    engine.stop();
    eventually("the threads end", IN_TIME, || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .all(|name| !name.starts_with("nb-"))
    });
    assert_eq!(ports(), [b], "the last verdicts stand");
    assert!(!engine.is_running());

    in_one_of_five(first_probes_come_soon_and_the_next_are_spread);
}

#[allow(clippy::unwrap_used)] // A step of the test.
fn first_probes_come_soon_and_the_next_are_spread() -> Result<(), String> {
    const COUNT: u32 = 24;
    let interval = Duration::from_millis(1600);
    let (listeners, targets): (Vec<_>, Vec<_>) = (0..COUNT)
        .map(|_| {
            let (listener, port) = listener();
            (listener, target(port))
        })
        .unzip();
    let engine = current();
    let started = Instant::now();
    let policy = ProbePolicy {
        connect_interval: interval,
        // The first probes of 24 targets are spread over these 240 ms.
        fast_interval: Duration::from_millis(240),
        ..POLICY
    };
    let slow = targets
        .into_iter()
        .map(|target| with_policy(target, policy));
    let slow = config(slow.collect());
    engine.configure(slow, false).unwrap();
    assert_eq!(engine.wait_ready(Some(IN_TIME)), Ok(true));
    let first = started.elapsed();

    let records = || {
        let targets = engine.active(Start::Allowed).unwrap().targets();
        targets.into_iter().map(|target| target.record)
    };
    eventually("each has its second probe", IN_TIME, || {
        records().all(|record| record.probes >= 2)
    });
    let second = started.elapsed();
    let seconds: Vec<u64> = records().map(|record| record.connect_started_ns).collect();
    let (earliest, last) = (seconds.iter().min().unwrap(), seconds.iter().max().unwrap());
    let (early, late) = (
        earliest + (last - earliest) / 3,
        last - (last - earliest) / 3,
    );
    let thirds = [0..early, early..late, late..u64::MAX]
        .map(|third| seconds.iter().filter(|at| third.contains(at)).count());
    let over = Duration::from_nanos(last - earliest);
    engine.stop();
    drop(listeners);
    // 100 a second; the first probe of the last target and its second are an interval apart.
    let window = Duration::from_millis(240);
    let soon = first < window + interval / 4 && second < window + interval * 5 / 4;
    if soon && over > interval / 2 && thirds.iter().all(|count| (5..=11).contains(count)) {
        return Ok(());
    }
    Err(format!(
        "first probes within {first:?}, second ones after {second:?} and within {over:?}: {thirds:?}"
    ))
}
