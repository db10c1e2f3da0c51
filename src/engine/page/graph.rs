//! The graph of a target's last probes: a small inline SVG. `page.js` draws the same.

use std::fmt::Write;

use maud::{Markup, html};

use crate::engine::verdicts::{ProbeResult, Sample};

/// The height of the line in the SVG's units; a probe is one unit wide. Failures are marked below.
const HEIGHT: f64 = 14.0;

/// The graph; nothing before the first probe.
pub(super) fn graph(samples: &[Sample]) -> Markup {
    if samples.is_empty() {
        return html! {};
    }
    let (line, failures) = (line(samples), failures(samples));
    html! {
        svg viewBox="0 0 60 18" aria-hidden="true" {
            @if !line.is_empty() { path d=(line); }
            @if !failures.is_empty() { path class="f" d=(failures); }
        }
    }
}

/// How many of the samples are failures.
pub(super) fn failed(samples: &[Sample]) -> usize {
    let is_failure = |sample: &&Sample| sample.result == ProbeResult::Failed;
    samples.iter().filter(is_failure).count()
}

/// The path through the good probes, with 0 at the bottom and the slowest of them at the top; a new
/// line begins after other probes.
fn line(samples: &[Sample]) -> String {
    let good = samples.iter().filter(|s| s.result == ProbeResult::Good);
    let slowest = good.map(|s| s.took.as_secs_f64()).fold(1e-6, f64::max);
    let mut path = String::new();
    let mut last = None;
    for (x, sample) in (0_i32..).zip(samples) {
        if sample.result != ProbeResult::Good {
            last = None;
            continue;
        }
        #[allow(clippy::cast_possible_truncation)] // Between 0 and HEIGHT.
        let y = 1 + (HEIGHT - HEIGHT * sample.took.as_secs_f64() / slowest).round() as i32;
        // Writing to memory does not fail.
        let _ = match last {
            // A line of no length is a dot with round line ends.
            None => write!(path, "M{x} {y}h0"),
            Some(before) if before == y => write!(path, "h1"),
            Some(before) => write!(path, "l1 {}", y - before),
        };
        last = Some(y);
    }
    path
}

/// One mark for each run of failures.
fn failures(samples: &[Sample]) -> String {
    let mut path = String::new();
    let mut run = 0_usize;
    let ends = samples.iter().map(|s| s.result == ProbeResult::Failed);
    for (x, is_failure) in ends.chain([false]).enumerate() {
        if is_failure {
            run += 1;
        } else if run > 0 {
            let _ = write!(path, "M{} 17h{run}", x - run);
            run = 0;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn samples(letters: &str) -> Vec<Sample> {
        let sample = |letter: char| Sample {
            took: Duration::from_millis(u64::from(letter.to_digit(10).unwrap_or(0))),
            result: match letter {
                'f' => ProbeResult::Failed,
                'i' => ProbeResult::Inconclusive,
                _ => ProbeResult::Good,
            },
        };
        letters.chars().map(sample).collect()
    }

    #[test]
    fn a_line_goes_through_the_good_probes() {
        assert_eq!(line(&samples("2200f1i")), "M0 1h0h1l1 14h1M5 8h0");
        assert_eq!(failures(&samples("2ff1f")), "M1 17h2M4 17h1");
        assert_eq!(failed(&samples("2ff1f")), 3);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(graph(&[]).into_string(), "");
        assert_eq!(line(&samples("ffi")), "");
        assert_eq!(failures(&samples("123")), "");
    }
}
