//! A short run of every fuzz target. For long ones see `fuzz/Cargo.toml`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Runs of each target here.
const RUNS: u64 = 5_000;
#[test]
fn every_target_survives_a_short_run() {
    for target in targets::TARGETS {
        let slowest = targets::mutate::drive(target, RUNS, 1);
        let bound = targets::mutate::SLOWEST;
        assert!(slowest <= bound, "{} took {slowest:?}", target.name);
    }
}

/// Each has its program for cargo-fuzz, and each program is a target.
#[test]
fn every_target_has_its_program() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets");
    let mut programs: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    programs.sort();
    let mut names: Vec<&str> = targets::TARGETS.iter().map(|t| t.name).collect();
    names.sort_unstable();
    assert_eq!(programs, names);
    for name in names {
        assert!(targets::find(name).is_some());
        targets::run(name, b"");
    }
}

/// Mutations of what is refused at once reach nothing.
#[test]
fn the_seeds_of_the_loaders_are_accepted() {
    for seed in targets::configuration::YAML {
        let text = String::from_utf8_lossy(seed);
        assert!(targets::configuration::load(seed), "{text}");
    }
    for seed in targets::state::STATE {
        let text = String::from_utf8_lossy(seed);
        assert!(targets::state::load(seed), "{text}");
    }
}
