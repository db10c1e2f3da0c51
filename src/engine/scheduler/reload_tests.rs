//! What another configuration, which comes into force while probes are made, must not lose. The
//! steps of the engine thread are called one by one, so that each order of events can be made.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;

use super::timer::TimerState;
use super::*;
use crate::engine::active::StartState;
use crate::engine::config::{Config, LogSink};
use crate::engine::verdicts::Record;
use crate::engine::verdicts::health::Verdict;
use crate::sys::fork_mark::pid;

const HOUR: &str = "1h";

/// How many probes the targets had before a test.
const BEFORE: u64 = 5;

/// Makes a probe of a silent server wait.
const TLS: &str = "tls: true, tls_timeout: 100ms";

/// Targets at these ports of 127.0.0.1, with these keys too, that are probed once an hour.
fn config(ports: &[u16], keys: &str, fast_interval: &str) -> Arc<Config> {
    let targets: Vec<String> = ports
        .iter()
        .map(|port| format!("{{protocol: imap, host: 127.0.0.1, port: {port}, {keys}}}"))
        .collect();
    let text = format!(
        "backend_server_monitoring: {{log: none, connect_interval: {HOUR}, \
         fast_interval: {fast_interval}, backend_servers: [{}]}}",
        targets.join(", ")
    );
    Arc::new(Config::from_yaml(&text, &|_| None).unwrap())
}

fn in_force(before: Option<&Arc<ActiveConfig>>, config: &Arc<Config>) -> Arc<ActiveConfig> {
    let state = StartState::default();
    let active = ActiveConfig::succeed(before, config.clone(), pid(), true, state).unwrap();
    active.come_into_force(pid(), None);
    assert!(active.table.claim_lease(pid(), None).unwrap().is_ours());
    Arc::new(active)
}

struct Engine {
    scheduler: Scheduler,
    active: Arc<ActiveConfig>,
    log: Arc<Log>,
}

impl Engine {
    fn new(config: &Arc<Config>) -> Self {
        let active = in_force(None, config);
        let log = Arc::new(Log::open(&LogSink::None).unwrap());
        let mut scheduler = Scheduler::begin(&active, &log, &Arc::default());
        scheduler.fit(&active, &log, &Followed::default(), |wanted| wanted);
        Self {
            scheduler,
            active,
            log,
        }
    }

    fn begin(ports: &[u16]) -> Self {
        Self::begin_with(&config(ports, "", "10s"))
    }

    /// An engine whose targets were probed just now, so that none is due for an hour.
    fn begin_with(config: &Arc<Config>) -> Self {
        let mut engine = Self::new(config);
        let now = clock::monotonic_ns();
        for slot in &engine.active.slots {
            let probed = Record {
                probes: BEFORE,
                connect_started_ns: now,
                deep_started_ns: now,
                ..engine.active.table.read(*slot)
            };
            engine.active.table.write(*slot, &probed, false);
        }
        engine.replace_scheduler();
        engine
    }

    /// As when this process has given up the role of the prober and takes it again.
    fn replace_scheduler(&mut self) {
        self.scheduler = Scheduler::begin(&self.active, &self.log, &Arc::default());
        self.serve(&self.active.clone());
    }

    fn in_force(&self, config: &Arc<Config>) -> Arc<ActiveConfig> {
        in_force(Some(&self.active), config)
    }

    /// What the engine thread does after each event.
    fn turn(&mut self) {
        self.scheduler.handle_reports();
        self.scheduler.probe_due();
    }

    /// Turns until no probe is in flight and none is due soon.
    async fn settle(&mut self) {
        self.turn();
        while !self.scheduler.tasks.is_empty() || self.scheduler.is_due_within(SECOND) {
            self.event().await;
        }
    }

    async fn event(&mut self) {
        if let SchedulerEvent::Completed(completed) = self.scheduler.event().await {
            self.scheduler.complete(completed);
        }
        self.turn();
    }

    fn serve(&mut self, active: &Arc<ActiveConfig>) {
        self.active = active.clone();
        self.scheduler
            .fit(active, &self.log, &Followed::default(), |wanted| wanted);
    }

    fn verdict(&self, at: usize) -> Verdict {
        self.active.table.read(self.active.slots[at]).verdict()
    }

    /// How many probes were made since [`Engine::begin_with`].
    fn probes(&self, at: usize) -> u64 {
        let record = self.active.table.read(self.active.slots[at]);
        record.probes - BEFORE
    }

    fn started_ns(&self, at: usize) -> u64 {
        self.active.table.starts(self.active.slots[at]).0
    }

    fn report(&self, port: u16) {
        assert!(self.active.report_failure("127.0.0.1", port));
    }
}

const SECOND: Duration = Duration::from_secs(1);

impl Scheduler {
    fn is_due_within(&self, soon: Duration) -> bool {
        self.may_start()
            || self
                .next_due()
                .is_some_and(|at| at < clock::monotonic_ns() + clock::ns(soon))
    }
}

/// A port that refuses connections as long as the socket is there.
fn refusing() -> (tokio::net::TcpSocket, u16) {
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = bound.local_addr().unwrap().port();
    (bound, port)
}

/// A port where connections are accepted by the kernel and nothing is ever said.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_report_is_handled_at_once() {
    let (_refusing, port) = refusing();
    let mut engine = Engine::begin(&[port]);
    engine.turn();
    assert_eq!(engine.verdict(0), Verdict::Unknown);
    engine.report(port);
    engine.turn();
    assert_eq!(engine.verdict(0), Verdict::Dead);
}

#[tokio::test]
async fn a_report_right_after_another_ones_probe_is_handled_too() {
    let (_refusing, port) = refusing();
    let mut engine = Engine::begin(&[port]);
    engine.report(port);
    engine.turn();
    assert_eq!(engine.probes(0), 1);
    let first = engine.started_ns(0);
    engine.report(port);
    engine.settle().await;
    assert_eq!(engine.probes(0), 2);
    // Probes for reports come at most once per 100 ms.
    assert!(engine.started_ns(0) - first >= 100_000_000);
    engine.settle().await;
    assert_eq!(engine.probes(0), 2);
}

#[tokio::test]
async fn a_report_during_a_probe_is_followed_by_another_one() {
    let (_silent, port) = silent();
    let mut engine = Engine::begin_with(&config(&[port], TLS, "10s"));
    engine.report(port);
    engine.turn();
    assert_eq!(engine.scheduler.tasks.len(), 1);
    engine.report(port);
    engine.settle().await;
    assert_eq!(engine.probes(0), 2);
}

/// The old configuration's scheduler makes the probe, whose outcome no longer counts.
#[tokio::test]
async fn a_report_after_another_configuration_came_into_force_is_not_lost() {
    for fast_interval in ["10s", "20s"] {
        let (_refusing, port) = refusing();
        let mut engine = Engine::begin(&[port]);
        let next = engine.in_force(&config(&[port], "", fast_interval));
        engine.report(port);
        engine.turn();
        assert_eq!(engine.probes(0), 0);
        engine.serve(&next);
        engine.settle().await;
        assert_eq!((engine.probes(0), engine.verdict(0)), (1, Verdict::Dead));
    }
}

#[tokio::test]
async fn a_report_whose_probe_is_in_flight_at_a_reload_is_not_lost() {
    for fast_interval in ["10s", "20s"] {
        let (_silent, port) = silent();
        let mut engine = Engine::begin_with(&config(&[port], TLS, "10s"));
        engine.report(port);
        engine.turn();
        assert_eq!(engine.scheduler.tasks.len(), 1);
        let next = engine.in_force(&config(&[port], TLS, fast_interval));
        engine.serve(&next);
        engine.settle().await;
        assert_eq!((engine.probes(0), engine.verdict(0)), (1, Verdict::Dead));
    }
}

#[tokio::test]
async fn a_report_whose_probe_is_in_flight_is_left_to_the_next_prober() {
    let (_silent, port) = silent();
    let mut engine = Engine::begin_with(&config(&[port], TLS, "10s"));
    engine.report(port);
    engine.turn();
    assert_eq!(engine.scheduler.tasks.len(), 1);
    engine.replace_scheduler();
    engine.settle().await;
    assert_eq!((engine.probes(0), engine.verdict(0)), (1, Verdict::Dead));
}

/// A first probe that a reload cancels is made under the new configuration, not an interval later.
#[tokio::test]
async fn a_probe_that_a_reload_cancels_is_made_again() {
    for fast_interval in ["0.3s", "0.4s"] {
        let (_silent, port) = silent();
        let first = config(&[port], TLS, "0.3s");
        let mut engine = Engine::new(&first);
        while engine.scheduler.tasks.is_empty() {
            engine.scheduler.event().await;
            engine.turn();
        }
        let next = engine.in_force(&config(&[port], TLS, fast_interval));
        engine.serve(&next);
        engine.turn();
        while engine.verdict(0) != Verdict::Dead {
            engine.event().await;
        }
    }
}

/// The outcome of a probe of the old configuration says nothing about the new one, whose targets
/// may have other settings in the same slots.
#[tokio::test]
async fn an_outcome_of_a_replaced_configuration_is_not_published() {
    let (_refusing, port) = refusing();
    let mut engine = Engine::begin(&[port]);
    let next = engine.in_force(&config(&[port], "", "20s"));
    let before = engine.active.table.read(engine.active.slots[0]);
    engine.report(port);
    engine.turn();
    assert_eq!(engine.active.table.read(engine.active.slots[0]), before);
    engine.serve(&next);
    engine.settle().await;
    assert_eq!(engine.verdict(0), Verdict::Dead);
}

#[tokio::test]
async fn a_report_is_answered_once_each_timer_has_probed() {
    let (_silent, port) = silent();
    let deep = "deep_check: true, deep_interval: 2h, deep_timeout: 50ms";
    let mut engine = Engine::begin_with(&config(&[port], deep, "10s"));
    engine.report(port);
    engine.settle().await;
    assert_eq!(engine.probes(0), 2);
    let slot = engine.active.slots[0];
    assert_eq!(engine.active.table.answered(slot), 1);
}

#[tokio::test]
async fn a_reload_moves_the_generation_where_the_list_is_another_one() {
    let [(_first, a), (_second, b)] = [refusing(), refusing()];
    let engine = Engine::begin(&[a]);
    let before = engine.active.generation();
    let same = engine.in_force(&config(&[a], "", "10s"));
    assert_eq!(same.generation(), before);
    let more = in_force(Some(&same), &config(&[a, b], "", "10s"));
    assert_ne!(more.generation(), before);
}

/// A process that was stopped for a while finds all its timers overdue.
#[tokio::test]
async fn what_is_overdue_after_a_pause_is_spread() {
    let ports: Vec<u16> = (1..=250).collect();
    let mut engine = Engine::begin_with(&config(&ports, "", "1s"));
    let now = clock::monotonic_ns();
    let second = 1_000_000_000;
    for timer in &mut engine.scheduler.timers {
        timer.state = TimerState::Waiting(Some(now - 10 * second));
    }
    engine.scheduler.rebuild_queues();
    engine.scheduler.spread_overdue(now);
    let due: Vec<u64> = engine.scheduler.due.iter().map(|(due, _)| *due).collect();
    assert_eq!(due.len(), 250);
    // Rounded to ticks of 256 ms, in both directions.
    let tick = 256_000_000;
    assert!(due.iter().all(|due| *due <= now + 5 * second / 2 + tick));
    for within in [
        now - tick..now + second,
        now + second..now + 2 * second,
        now + 2 * second..now + 3 * second,
    ] {
        let count = due.iter().filter(|due| within.contains(due)).count();
        assert!(count <= 130, "{count} within a second");
    }
    // A hundred may be probed at once.
    for (index, timer) in engine.scheduler.timers.iter_mut().enumerate() {
        let due = if index < 100 {
            now - 10 * second
        } else {
            now + 3600 * second
        };
        timer.state = TimerState::Waiting(Some(due));
    }
    engine.scheduler.rebuild_queues();
    engine.scheduler.spread_overdue(now);
    let at_once = engine
        .scheduler
        .due
        .iter()
        .filter(|(due, _)| *due < now)
        .count();
    assert_eq!(at_once, 100);
}

/// The engine thread may see only the last of several configurations. A target that an earlier one
/// lacked has an empty record, and must not wait for the interval of its timer of before.
#[tokio::test]
async fn a_target_that_was_removed_and_came_back_is_probed_soon() {
    let (with, without) = (config(&[1, 2], "", "1s"), config(&[2], "", "1s"));
    let mut engine = Engine::begin_with(&with);
    assert!(engine.scheduler.next_due() > Some(clock::monotonic_ns() + 60_000_000_000));
    let removed = engine.in_force(&without);
    let back = in_force(Some(&removed), &with);
    // As a probe does that was in flight, and is called off only now.
    back.table
        .note_connect_start(back.slots[0], clock::monotonic_ns());
    for is_new in [false, true] {
        engine.active = back.clone();
        if is_new {
            engine.replace_scheduler();
        } else {
            engine.serve(&back);
        }
        let soon = clock::monotonic_ns() + 2_000_000_000;
        assert!(engine.scheduler.next_due() < Some(soon), "{is_new}");
    }
}

/// A probe that has its result, and only waits for the server to close, gives its slot to nobody.
#[tokio::test]
async fn a_probe_whose_result_is_known_is_not_cancelled_for_another() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"220 mx\r\n").unwrap();
        let mut bytes = [0; 512];
        while !bytes.starts_with(b"EHLO") {
            assert!(peer.read(&mut bytes).unwrap() > 0);
        }
        peer.write_all(b"250 mx\r\n").unwrap();
        // It answers QUIT no more; the client closes.
        while peer.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    let text = format!(
        "backend_server_monitoring: {{log: none, max_concurrent_probes: 1, connect_interval: {HOUR}, \
         backend_servers: [{{protocol: smtp, host: 127.0.0.1, port: {port}, deep_check: true}}, \
         {{protocol: imap, host: 127.0.0.1, port: 1}}]}}"
    );
    let mut engine = Engine::new(&Arc::new(Config::from_yaml(&text, &|_| None).unwrap()));
    let scheduler = &mut engine.scheduler;
    scheduler.due.clear();
    for at in 0..2 {
        scheduler.make_ready(at);
    }
    scheduler.probe_due();
    let is_known = match &scheduler.timers[0].state {
        TimerState::InFlight(running) => running.is_known.clone(),
        _ => panic!("it is in flight"),
    };
    let long_ago = |scheduler: &mut Scheduler| {
        for (started, _) in &mut scheduler.prompt_tasks {
            *started = started.saturating_sub(60_000_000_000);
        }
    };
    while !is_known.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    long_ago(scheduler);
    assert!(scheduler.gives_way_at().is_some(), "another one waits");
    scheduler.make_way();
    assert!(matches!(scheduler.timers[0].state, TimerState::InFlight(_)));
    engine.settle().await;
    assert_eq!(engine.verdict(0), Verdict::Alive);
    let record = engine.active.table.read(engine.active.slots[0]);
    assert_eq!(record.probes, 1);
    server.join().unwrap();
}

/// Another configuration or prober may come before its turn in the queue of slow ones, and would take the start
/// for that of a probe with an outcome.
#[tokio::test]
async fn a_probe_that_gave_up_its_slot_has_not_started() {
    let [(_first, a), (_second, b)] = [silent(), silent()];
    let text = format!(
        "backend_server_monitoring: {{log: none, max_concurrent_probes: 1, connect_interval: {HOUR}, \
         backend_servers: [{{protocol: imap, host: 127.0.0.1, port: {a}, tls: true}}, \
         {{protocol: imap, host: 127.0.0.1, port: {b}, tls: true}}]}}"
    );
    let mut engine = Engine::begin_with(&Arc::new(Config::from_yaml(&text, &|_| None).unwrap()));
    let before = engine.started_ns(0);
    let scheduler = &mut engine.scheduler;
    scheduler.due.clear();
    for at in 0..2 {
        scheduler.make_ready(at);
    }
    scheduler.probe_due();
    assert!(matches!(scheduler.timers[0].state, TimerState::InFlight(_)));
    for (started, _) in &mut scheduler.prompt_tasks {
        *started = started.saturating_sub(60_000_000_000);
    }
    scheduler.make_way();
    assert!(matches!(scheduler.timers[0].state, TimerState::Ready));
    assert_eq!(engine.started_ns(0), before);
}

/// An address that answers is found soon behind one that does not, however few probes there may be at once.
#[tokio::test]
async fn few_probes_at_once_may_have_as_many_connections_as_there_are_descriptors_for() {
    let text = "backend_server_monitoring: {log: none, max_concurrent_probes: 1, backend_servers: [
        {protocol: imap, host: 127.0.0.1, port: 1}]}";
    let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
    let mut engine = Engine::new(&config);
    let connections = engine.scheduler.prober.connections().clone();
    assert_eq!(engine.scheduler.limit, 1);
    let held: Vec<_> = (0..8).map(|_| connections.hold_further()).collect();
    assert!(held.iter().all(Option::is_some));
    // Another configuration comes into force where there are fewer descriptors.
    let (active, log) = (engine.in_force(&config), engine.log.clone());
    let scheduler = &mut engine.scheduler;
    scheduler.fit(&active, &log, &Followed::default(), |wanted| wanted.min(8));
    assert!(connections.hold_further().is_none());
}
