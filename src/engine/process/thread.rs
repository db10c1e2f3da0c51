//! The engine thread: how it starts and ends, and what it is told. It checks whether this process is the
//! prober, runs the scheduler while this process probes, and makes checks on demand (`engine_loop.rs`).
//!
//! Of the processes that share a verdict table one probes: the holder of the table's lease (see
//! `verdicts/lease.rs`). The others read the table and try for the lease at intervals. Where
//! several tables share a state file, the holder of the file's lock probes for all of them;
//! `EngineLoop::follow` (`engine_loop/role.rs`) is what the lease holders of the other tables do.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::command::{Command, HostSigns, Reports};
use super::engine_loop::EngineLoop;
use crate::engine::log::{Level, Line};
use crate::engine::probe::panics::outlived;
use crate::sys::gate;
use crate::sys::own_descriptor::note_that_host_closes;
use crate::sys::relay::{self, Relay, relayed};
use crate::sys::thread::spawn_quiet;

/// The size of the stack in bytes: several times what OpenSSL and the resolver need.
const STACK: usize = 1024 * 1024;

/// The pause after a panic of the engine loop, so that one that repeats does not use up a
/// processor.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The pause before a restart after the host has closed the engine's descriptors.
const RESTART_WHEN_LOST: Duration = Duration::from_millis(100);

/// Starts the engine thread. It ends after [`Command::Stop`] when it has been idle for a moment,
/// or when the returned sender is dropped.
///
/// # Errors
/// Where the system allows no thread or descriptor.
pub(super) fn spawn(signs: HostSigns, reports: Reports) -> io::Result<UnboundedSender<Command>> {
    let (sender, commands) = unbounded_channel();
    let engine = sender.downgrade();
    // Made before the runtime, so that its descriptor has the lowest number of all: a host that
    // closes all descriptors in ascending order closes it first, and the relay notices before the
    // runtime's are gone.
    let relay = Relay::new(move || {
        gate::goes_to_sleep();
        note_that_host_closes();
        (reports.lost)(&engine);
        // The host may still be closing descriptors, and would close those of the new thread too.
        std::thread::sleep(RESTART_WHEN_LOST);
        (reports.restart)();
    })?;
    // This thread counts as inside the OpenSSL gate from unpark to park. A fork or an exit of the host waits
    // meanwhile, so that it never happens during an OpenSSL call.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            gate::goes_to_sleep();
            relay::halt_if_lost();
        })
        .on_thread_unpark(|| {
            relay::halt_if_lost();
            gate::wakes_up();
        })
        .build()?;
    gate::install();
    relay::halt_if_lost_in_panics();
    spawn_quiet("nb-engine", STACK, move || {
        relay.adopt_thread();
        gate::wakes_up();
        runtime.spawn(relay.clone().run());
        // A task, not the runtime's root future: waking the root future costs two system calls.
        let engine = runtime.spawn(relayed(live(signs, reports, commands)));
        // An error would be a panic, which `live` has contained.
        let _ = runtime.block_on(engine);
        // Dropping the runtime closes descriptors, which must still be ours.
        relay::halt_if_lost();
        drop(runtime);
        gate::goes_to_sleep();
    })?;
    Ok(sender)
}

/// Runs the engine loop until it ends, and again after a panic. A panic only loses the probes and
/// checks in flight.
async fn live(signs: HostSigns, reports: Reports, mut commands: UnboundedReceiver<Command>) {
    let mut serving = None;
    loop {
        let run = EngineLoop::new(signs, reports).run(&mut commands, &mut serving);
        if outlived(Box::pin(run)).await.is_ok() {
            break;
        }
        if let Some((_, log)) = &serving {
            log.write(Line::new(Level::Error, "engine_panicked"));
        }
        tokio::time::sleep(RESTART_AFTER).await;
    }
}
