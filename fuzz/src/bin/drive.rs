//! Fuzzes without a nightly toolchain: `drive TARGET|all [RUNS [SEED]]`; `drive seeds DIR`
//! writes the seeds as a corpus for cargo-fuzz. Fails where an input took longer than it may.

use std::path::Path;
use std::time::Instant;

use nauthilus_backend_fuzz::{TARGETS, Target, find, mutate};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| {
        arguments.get(at).map_or(default, |text: &String| {
            text.replace('_', "").parse().expect("a number")
        })
    };
    let targets: Vec<&Target> = match arguments.first().map(String::as_str) {
        Some("seeds") => return write_seeds(Path::new(&arguments[1])),
        Some("all") => TARGETS.iter().collect(),
        Some(name) => vec![find(name).expect("a target of that name")],
        None => {
            let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            eprintln!("drive TARGET|all [RUNS [SEED]], drive seeds DIR; targets: {names:?}");
            std::process::exit(2);
        }
    };
    let (runs, seed) = (number(1, 1_000_000), number(2, 1));
    let mut too_slow = false;
    for target in targets {
        let started = Instant::now();
        let slowest = mutate::drive(target, runs, seed);
        println!(
            "{}: {runs} runs from seed {seed} in {:.1} s, slowest {:.1} ms, peak {} KiB",
            target.name,
            started.elapsed().as_secs_f64(),
            slowest.as_secs_f64() * 1e3,
            peak_kib(),
        );
        too_slow |= slowest > mutate::SLOWEST;
    }
    if too_slow {
        eprintln!("drive: a run took longer than {:?}", mutate::SLOWEST);
        std::process::exit(1);
    }
}

fn write_seeds(directory: &Path) {
    for target in TARGETS {
        let directory = directory.join(target.name);
        std::fs::create_dir_all(&directory).expect("a directory");
        for (i, seed) in target.seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{i}")), seed).expect("a file");
        }
    }
}

/// The most memory this process ever held.
fn peak_kib() -> String {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        })
        .unwrap_or_else(|| "?".to_owned())
}
