//! The monitor against real listeners on loopback. One process has one engine: the steps
//! share it and run in turn.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::config::{Config, InitialState, LogSink, Timeouts};
use nauthilus_backend::engine::process::{Start, current};
use nauthilus_backend::engine::target::{AuthMechanism, Host, Protocol, Target, TlsMode};

const INTERVAL: Duration = Duration::from_millis(200);
const FAST: Duration = Duration::from_millis(50);

fn target(port: u16) -> Arc<Target> {
    Arc::new(Target {
        protocol: Protocol::Imap,
        host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port,
        tls_mode: TlsMode::Plain,
        tls_skip_verify: false,
        tls_server_name: None,
        tls_ca_file: None::<PathBuf>,
        haproxy_v2: false,
        deep_check: false,
        test_username: None,
        test_password: None,
        auth_mechanism: AuthMechanism::Auto,
        allow_plaintext_auth: false,
        request_uri: "/".into(),
        connect_timeout: Duration::from_millis(300),
        tls_timeout: Duration::from_millis(300),
        deep_timeout: Duration::from_millis(300),
    })
}

fn config(targets: Vec<Arc<Target>>) -> Config {
    Config {
        timeouts: Timeouts::default(),
        connect_interval: INTERVAL,
        deep_interval: INTERVAL,
        fast_interval: FAST,
        failure_threshold: 2,
        recovery_threshold: 2,
        initial_state: InitialState::Alive,
        max_concurrent_probes: 16,
        expose_attributes: Vec::new(),
        state_file: None,
        state_max_age: Duration::from_secs(300),
        tls_full_handshake_interval: Duration::from_secs(3600),
        cert_warn: Duration::from_secs(14 * 86_400),
        log: LogSink::None,
        targets,
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
    assert!(engine.wait_ready(Some(Duration::from_secs(5))));
    assert_eq!(ports(), [a, b]);
    assert!(engine.is_prober());
    let generation = engine.snapshot(Start::Allowed).generation;

    drop(first);
    eventually("a dead listener leaves", INTERVAL + FAST * 2 + FAST, || {
        ports() == [b]
    });
    assert_eq!(engine.snapshot(Start::Allowed).generation, generation + 1);
    let status = engine.active(Start::Allowed).unwrap().targets();
    assert_eq!(
        status[0].record.error.as_deref(),
        Some("connect: connection refused")
    );

    let _first = TcpListener::bind(("127.0.0.1", a)).unwrap();
    eventually("a listener comes back", FAST * 6, || ports() == [a, b]);

    // An unchanged target keeps its verdict, wherever it stands; a new one is presumed.
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
    eventually("the refused one leaves", Duration::from_secs(2), || {
        ports() == [b]
    });

    // A report is heeded at once, whatever the interval.
    let slow = Config {
        connect_interval: Duration::from_secs(3600),
        fast_interval: Duration::from_secs(60),
        ..config(vec![target(a), target(b)])
    };
    engine.configure(slow, false).unwrap();
    assert_eq!(ports(), [a, b]);
    drop(_first);
    let active = engine.active(Start::Allowed).unwrap();
    assert!(!active.report_failure("127.0.0.1", 1));
    assert!(active.report_failure("127.0.0.1", a));
    let took = eventually("a reported one leaves", Duration::from_secs(1), || {
        ports() == [b]
    });
    assert!(took < Duration::from_millis(50), "took {took:?}");

    let check = engine.check(target(a), true);
    assert_eq!(
        check.wait(Some(Duration::from_secs(5))),
        Some(Err("connect: connection refused".to_owned()))
    );
    assert_eq!(
        engine
            .check(target(b), true)
            .wait(Some(Duration::from_secs(5))),
        Some(Ok(()))
    );

    engine.stop();
    eventually("the threads end", Duration::from_secs(5), || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .all(|name| !name.starts_with("nb-"))
    });
    assert_eq!(ports(), [b], "the last verdicts stand");
    assert!(!engine.is_running());

    first_looks_come_soon_and_the_next_are_spread();
}

#[allow(clippy::unwrap_used)] // A step of the test.
fn first_looks_come_soon_and_the_next_are_spread() {
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
    let slow = Config {
        connect_interval: interval,
        ..config(targets)
    };
    engine.configure(slow, false).unwrap();
    assert!(engine.wait_ready(Some(Duration::from_secs(5))));
    // 100 a second.
    let window = Duration::from_millis(240);
    assert!(started.elapsed() < window + interval / 4);

    let records = || {
        let targets = engine.active(Start::Allowed).unwrap().targets();
        targets.into_iter().map(|target| target.record)
    };
    eventually("each has its second look", interval * 2, || {
        records().all(|record| record.probes >= 2)
    });
    // The first look of the last target and its second one are an interval apart.
    assert!(started.elapsed() < window + interval * 5 / 4);
    let seconds: Vec<u64> = records().map(|record| record.connect_started_ns).collect();
    let (first, last) = (seconds.iter().min().unwrap(), seconds.iter().max().unwrap());
    let (early, late) = (first + (last - first) / 3, last - (last - first) / 3);
    let thirds = [0..early, early..late, late..u64::MAX]
        .map(|third| seconds.iter().filter(|at| third.contains(at)).count());
    let over = Duration::from_nanos(last - first);
    assert!(over > interval / 2, "second looks within {over:?}");
    assert!(
        thirds.iter().all(|count| (5..=11).contains(count)),
        "{thirds:?}"
    );
    engine.stop();
    drop(listeners);
}
