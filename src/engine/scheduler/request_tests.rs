//! Requests in the state file. The steps of the engine thread are called one by one, so that nothing
//! depends on how fast they are.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::follower::Following;
use super::*;
use crate::engine::active::{OperatorRequest, StartState};
use crate::engine::config::{Config, LogSink};
use crate::engine::metrics::write_pieces;
use crate::engine::state_file::file::{SharedStateFile, WriteRight};
use crate::engine::state_file::saved::RequestAnswer;
use crate::engine::verdicts::{EventKind, OperatorState, Setting};
use crate::sys::fork_mark::pid;

/// An engine that keeps a state file, and whoever asks it.
struct Keeper {
    folder: PathBuf,
    store: Arc<SharedStateFile>,
    scheduler: Scheduler,
    active: Arc<ActiveConfig>,
}

impl Keeper {
    fn begin(name: &str, targets: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("nb-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let store = Arc::new(SharedStateFile::open(&folder.join("state")).unwrap());
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        let servers: Vec<String> = (0..targets)
            .map(|n| {
                format!(
                    "{{protocol: imap, host: 127.0.0.1, port: {}, node: n{n}}}",
                    n + 1
                )
            })
            .collect();
        let text = format!(
            "backend_server_monitoring: {{log: none, connect_interval: 1h, backend_servers: [{}]}}",
            servers.join(", ")
        );
        let config = Arc::new(Config::from_yaml(&text, &|_| None).unwrap());
        let state = StartState {
            state_file: Some(store.clone()),
            ..StartState::default()
        };
        let active = Arc::new(ActiveConfig::succeed(None, config, pid(), true, state).unwrap());
        let log = Arc::new(Log::open(&LogSink::None).unwrap());
        let mut scheduler = Scheduler::begin(&active, &log, &Arc::default());
        scheduler.keep_file(true);
        scheduler.save();
        Self {
            folder,
            store,
            scheduler,
            active,
        }
    }

    /// Writes a request, which the next role check finds.
    fn ask(&mut self, body: &str) {
        assert!(self.store.ask(body, 0));
        self.scheduler.keep_file(true);
    }

    /// Waits until the thread has written a content, before which a follower asks for nothing.
    fn await_content(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.store.load_settled().unwrap().is_none() {
            assert!(Instant::now() < end);
            self.scheduler.save();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The answer that the thread has written which writes the file. A save may have to wait for one
    /// before, as on the engine thread.
    fn answer(&mut self) -> RequestAnswer {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let saved = self.store.load_settled().unwrap().unwrap_or_default();
            if let Some(answer) = saved.answer.filter(|one| one.number == self.store.asked()) {
                return answer;
            }
            assert!(Instant::now() < end);
            self.scheduler.save();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

#[test]
fn the_first_role_check_after_a_request_answers_it() {
    run(async {
        let mut keeper = Keeper::begin("answer", 1);
        keeper.ask("set what=\"node:n0\" state=drain for=0 by=\"ann\" reason=\"\"\n");
        keeper.scheduler.save();
        assert_eq!(keeper.answer().text, "ok");
        assert_eq!(
            keeper
                .active
                .operator_settings()
                .state_of_node("n0")
                .0
                .name(),
            "drain"
        );
    });
}

#[test]
fn metrics_are_made_in_steps_between_which_probes_have_their_turn() {
    const TARGETS: usize = 1_000;
    run(async {
        let mut keeper = Keeper::begin("steps", TARGETS);
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        keeper.ask("metrics\n");
        assert_eq!(turns.load(Ordering::Relaxed), 0, "nothing was made yet");
        // As the engine thread does with each event.
        while keeper.scheduler.is_answering() {
            keeper.scheduler.event().await;
            keeper.scheduler.save();
        }
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns > TARGETS / 100 * 5, "{turns} turns of another task");
        let answer = keeper.answer();
        let mut text = String::new();
        write_pieces(Some(&keeper.active), &mut |piece| text.push_str(piece));
        let families = |text: &mut dyn Iterator<Item = String>| -> Vec<String> {
            let names = text.filter(|line| line.starts_with("# TYPE"));
            names.collect()
        };
        assert_eq!(
            families(&mut answer.reply.iter().cloned()),
            families(&mut text.lines().map(str::to_owned))
        );
        assert_eq!(answer.reply.last().map(String::as_str), Some("# EOF"));
    });
}

#[test]
fn all_nodes_are_listed_and_what_does_not_read_is_refused() {
    run(async {
        let mut keeper = Keeper::begin("lists", 250);
        keeper.ask("nodes\n");
        while keeper.scheduler.is_answering() {
            keeper.scheduler.event().await;
            keeper.scheduler.save();
        }
        let answer = keeper.answer();
        assert_eq!(answer.reply.len(), 250);
        assert!(answer.reply[249].contains("\"node\":\"n249\""));
        keeper.store.stop_asking();
        for (body, reason) in [
            ("move user=\"u\"\n", "error a move line that does not read"),
            ("dance\n", "error not a request that this version knows"),
        ] {
            assert!(keeper.store.ask(body, keeper.store.asked()));
            keeper.scheduler.keep_file(true);
            keeper.scheduler.save();
            assert_eq!(keeper.answer().text, reason);
            keeper.store.stop_asking();
        }
    });
}

#[test]
fn a_call_that_nobody_makes_is_answered_and_does_not_hold_up_the_next_request() {
    run(async {
        let mut keeper = Keeper::begin("dropped", 1);
        keeper.ask("forget user=\"u\" by=\"\" reason=\"\"\n");
        keeper.scheduler.save();
        assert!(keeper.scheduler.is_answering());
        drop(keeper.scheduler.take_call().unwrap());
        keeper.scheduler.save();
        assert_eq!(keeper.answer().text, "error the engine could not do it");
    });
}

#[test]
fn whoever_stops_asking_leaves_no_user_in_the_file() {
    run(async {
        let keeper = Keeper::begin("withdrawn", 1);
        assert!(keeper.store.ask("forget user=\"alice\"\n", 0));
        let content = || std::fs::read(keeper.folder.join("state")).unwrap();
        let has_user = || content().windows(5).any(|bytes| bytes == b"alice");
        assert!(has_user());
        let number = keeper.store.request(0).unwrap().number;
        keeper.store.stop_asking();
        assert!(!has_user());
        let left = keeper.store.request(0).unwrap();
        assert_eq!((left.number, left.body.as_str()), (number, ""));
    });
}

/// A request whose asker was killed: its bytes are in the file, and nobody holds the lock.
fn abandon(keeper: &Keeper, body: &str) {
    assert!(keeper.store.ask(body, 0));
    let path = keeper.folder.join("state");
    let mut asked = std::fs::read(&path).unwrap();
    asked.resize(asked.len().max(16384), 0);
    keeper.store.stop_asking();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&asked[4096..16384], 4096).unwrap();
}

#[test]
fn the_request_of_a_process_that_has_ended_is_removed_and_not_carried_out() {
    run(async {
        let mut keeper = Keeper::begin("abandoned", 1);
        let body = "set what=\"node:n0\" state=drain for=0 by=\"alice\" reason=\"\"\n";
        abandon(&keeper, body);
        let content = || std::fs::read(keeper.folder.join("state")).unwrap();
        let has_user = || content().windows(5).any(|bytes| bytes == b"alice");
        assert!(has_user());
        keeper.scheduler.keep_file(true);
        assert!(!has_user() && keeper.active.table.operators().is_empty());
        // The place is free again.
        keeper.ask(body);
        assert_eq!(keeper.answer().text, "ok");
        assert_eq!(keeper.active.table.operators().len(), 1);
    });
}

#[test]
fn a_setting_with_its_own_time_is_taken_over_also_from_a_process_that_has_ended() {
    run(async {
        let mut keeper = Keeper::begin("timeless", 1);
        let line = "operator what=\"node:n0\" state=drain since=7 until=0 by=\"\" reason=\"\"\n";
        abandon(&keeper, line);
        keeper.scheduler.keep_file(true);
        assert_eq!(keeper.active.table.operators().len(), 1);
    });
}

/// A process with a table of its own that follows the keeper's file.
fn follower_of(keeper: &Keeper) -> (Arc<ActiveConfig>, Following, Arc<Log>) {
    let state = StartState {
        state_file: Some(keeper.store.clone()),
        ..StartState::default()
    };
    let config = keeper.active.config.clone();
    let active = Arc::new(ActiveConfig::succeed(None, config, pid(), true, state).unwrap());
    let following = Following::begin(&active);
    (
        active,
        following,
        Arc::new(Log::open(&LogSink::None).unwrap()),
    )
}

fn drain(reason: &str) -> OperatorRequest {
    OperatorRequest {
        what: "node:n0".to_owned(),
        setting: Setting::State(OperatorState::Drain),
        reason: reason.to_owned(),
        by: "ann".to_owned(),
        lasting: None,
    }
}

/// The changes of operators' settings among the events: to what, why and by whom.
fn operators_events(active: &ActiveConfig) -> Vec<(String, String, String)> {
    let events = active.table.events_after(0).events.into_iter();
    let of_operators = events.filter(|event| event.kind == EventKind::Operator);
    of_operators
        .map(|event| (event.to, event.reason, event.by))
        .collect()
}

fn one_drain(reason: &str) -> [(String, String, String); 1] {
    [("drain".to_owned(), reason.to_owned(), "ann".to_owned())]
}

#[test]
fn a_setting_that_the_writer_has_saved_is_an_event_of_its_followers() {
    run(async {
        let mut keeper = Keeper::begin("news", 1);
        let (active, mut following, log) = follower_of(&keeper);
        keeper.active.operate(drain("disk")).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while operators_events(&active).is_empty() {
            assert!(Instant::now() < end);
            keeper.scheduler.save();
            std::thread::sleep(Duration::from_millis(5));
            following.poll(&[], &log);
        }
        following.poll(&[], &log);
        assert_eq!(operators_events(&active), one_drain("disk"));
    });
}

#[test]
fn a_setting_of_a_follower_is_an_event_of_the_writer_and_asked_for_once() {
    run(async {
        let mut keeper = Keeper::begin("asked-once", 1);
        let (active, mut following, log) = follower_of(&keeper);
        keeper.await_content();
        // Lua's `%c` and the C library's locale know nothing of the control characters above 0x7f.
        active.operate(drain("it\u{92}s time")).unwrap();
        following.poll(&[], &log);
        keeper.scheduler.keep_file(true);
        let number = keeper.answer().number;
        assert_eq!(operators_events(&keeper.active), one_drain("it?s time"));
        for _ in 0..3 {
            following.poll(&[], &log);
        }
        let left = keeper.store.request(0).unwrap();
        assert_eq!((left.number, left.body.as_str()), (number, ""));
    });
}

/// Polls of which none reads the file: it does not change, unless the machine is so busy that the follower asks
/// again meanwhile.
fn await_quiet_polls(following: &mut Following, log: &Log) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "the file is read with each poll");
        following.poll(&[], log);
        let before = following.reads();
        for _ in 0..20 {
            following.poll(&[], log);
        }
        if before.is_some() && following.reads() == before {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_setting_that_waits_for_the_writer_does_not_have_the_file_read_again() {
    run(async {
        let mut keeper = Keeper::begin("waiting", 1);
        let (active, mut following, log) = follower_of(&keeper);
        keeper.await_content();
        active.operate(drain("disk")).unwrap();
        await_quiet_polls(&mut following, &log);
        // It was asked for, and the writer's answer is noticed.
        keeper.scheduler.keep_file(true);
        let number = keeper.answer().number;
        assert_eq!(operators_events(&keeper.active), one_drain("disk"));
        let end = Instant::now() + Duration::from_secs(60);
        while !keeper.store.request(0).unwrap().body.is_empty() {
            assert!(Instant::now() < end);
            following.poll(&[], &log);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(keeper.store.request(0).unwrap().number, number);
    });
}

#[test]
fn a_damaged_file_is_read_again_when_it_changes() {
    run(async {
        let mut keeper = Keeper::begin("damaged", 1);
        let (_active, mut following, log) = follower_of(&keeper);
        keeper.await_content();
        std::fs::write(keeper.folder.join("state"), [b'x'; 9000]).unwrap();
        assert!(keeper.store.load().is_err());
        await_quiet_polls(&mut following, &log);
    });
}
