//! Mutations for where no coverage guides them: small changes, many at times, to inputs
//! that are known to reach far.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Target;

/// What one run may take. A run of the longest inputs takes a few milliseconds; what takes longer
/// grows faster than its input does.
pub const SLOWEST: Duration = Duration::from_millis(50);

/// Inputs that never get longer than this, but for the few that are to meet a bound.
const USUAL: usize = 4096;

/// Bytes of those few: past every bound.
const LONG: usize = 70_000;

/// Long inputs that every drive begins with, for each seed: each is the seed and one word, again
/// and again. They show where time grows faster than the input, in short drives too.
const LONG_PER_SEED: usize = 8;

/// Xorshift64*: the same numbers from the same seed, everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }
}

/// Runs a target so many times, each with another mutation of a seed. Returns how long the
/// longest run took; where that was more than [`SLOWEST`],
/// how long the same input kept the processor busy.
pub fn drive(target: &Target, runs: u64, seed: u64) -> Duration {
    let mut random = Random::new(seed);
    let mut input = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut run = |input: &[u8]| {
        let started = Instant::now();
        (target.run)(input);
        let mut took = started.elapsed();
        if took > SLOWEST {
            // Perhaps the processor was another's.
            let before = on_processor();
            (target.run)(input);
            took = on_processor().saturating_sub(before);
        }
        slowest = slowest.max(took);
    };
    for seed in target.seeds {
        run(seed);
        for _ in 0..LONG_PER_SEED {
            let word = target.words[random.below(target.words.len())].as_bytes();
            run(&[*seed, &word.repeat(LONG / word.len())].concat());
        }
    }
    for _ in 0..runs {
        input.clear();
        input.extend_from_slice(target.seeds[random.below(target.seeds.len())]);
        for _ in 0..=random.below(6) {
            mutate(&mut input, target, &mut random);
        }
        run(&input);
    }
    slowest
}

/// How long this thread has been on a processor. Where the system does not say, the time of day.
fn on_processor() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(
        || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        },
        Duration::from_nanos,
    )
}

fn mutate(input: &mut Vec<u8>, target: &Target, random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(32)).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        4 => input.truncate(at),
        5 | 6 => {
            let word = target.words[random.below(target.words.len())];
            input.splice(at..at, word.bytes());
        }
        7 => {
            let other = target.seeds[random.below(target.seeds.len())];
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len())..]);
        }
        // Now and then far past every bound.
        8 if random.below(2000) == 0 => {
            let piece = input[at..end].to_vec();
            let times = random.below(LONG / piece.len().max(1));
            input.splice(at..at, piece.repeat(times));
            return;
        }
        _ => {}
    }
    input.truncate(USUAL);
}
