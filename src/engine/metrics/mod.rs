//! Metrics in the text form of OpenMetrics 1.0.
//!
//! All values are read from the shared table, so that any process that shares it gives the same
//! ones. The number of series is bounded by the configuration: targets and nodes are labels of
//! gauges and counters only, never of histograms, and users are no labels.
//!
//! The text is made in steps, each of which takes less than a millisecond, so that a host with an
//! event loop can do other work between them however many targets there are. A step is a part of
//! one family: all series of a family stand together in the text.

mod families;
mod put;
mod routing_families;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::active::ActiveConfig;
use families::{Encode, FAMILIES};
use put::Range;

/// The `Content-Type` of a response with this text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The longest piece, in bytes.
pub const PIECE_MAX: usize = 64 * 1024;

/// How many targets or nodes a step writes. It takes about 0.3 ms.
const STEP: usize = 50;

/// Where a step stands in the text; the default is the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// An index of [`FAMILIES`]; the end of the text follows the last one.
    pub family: usize,
    /// The first target or node that the step writes.
    pub item: usize,
}

/// The text of the step at `place` and the place of the next step; `None` after the end of the
/// text. Without a configuration the version is the only metric.
///
/// All steps of a text have to be given the same `active`: with another list of targets, a series
/// could come twice.
pub fn step(active: Option<&Arc<ActiveConfig>>, place: Place) -> Option<(String, Place)> {
    let next_family = Place {
        family: place.family + 1,
        item: 0,
    };
    let mut text = String::new();
    // Writing to memory does not fail, and the encoder has no error of its own.
    let Some(encode) = FAMILIES.get(place.family).copied() else {
        let _ = encode_eof(&mut text);
        return (place.family == FAMILIES.len()).then_some((text, next_family));
    };
    let count = match (encode, active) {
        (Encode::Version(_), _) => 0,
        (_, None) => return Some((text, next_family)),
        (Encode::Whole(_), Some(_)) => 0,
        (Encode::Targets(_), Some(active)) => active.slots.len(),
        (Encode::Nodes(_), Some(active)) => active.node_count(),
    };
    let end = count.min(place.item + STEP);
    let mut registry = Registry::with_prefix("nauthilus_backend");
    registry.register_collector(Box::new(Part {
        encode,
        active: active.cloned(),
        range: place.item..end,
    }));
    let _ = encode_registry(&mut text, &registry);
    if place.item > 0 {
        text.drain(..length_of_head(&text));
    }
    let next = if end < count {
        Place { item: end, ..place }
    } else {
        next_family
    };
    Some((text, next))
}

/// Passes the metrics of `active` to `write` in pieces of at most [`PIECE_MAX`] bytes, so that the
/// text of many targets is never in memory as a whole.
#[cfg(test)]
pub fn write_pieces(active: Option<&Arc<ActiveConfig>>, write: &mut dyn FnMut(&str)) {
    let mut place = Place::default();
    while let Some((text, next)) = step(active, place) {
        for piece in pieces(&text) {
            write(piece);
        }
        place = next;
    }
}

/// Cuts a text into pieces of at most [`PIECE_MAX`] bytes, between characters.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let most = rest.len().min(PIECE_MAX);
        let cut = (0..=most).rev().find(|&at| rest.is_char_boundary(at))?;
        let (piece, later) = rest.split_at(cut);
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The length of the lines about a family (`# TYPE`, `# HELP`) at the beginning of a text. They may be in the
/// text once, before the family's first series, so later steps cut them off.
fn length_of_head(text: &str) -> usize {
    let lines = text.split_inclusive('\n');
    lines
        .take_while(|line| line.starts_with('#'))
        .map(str::len)
        .sum()
}

/// The collector of a part of one family. It makes the text when the encoder calls it, not when it is
/// registered.
struct Part {
    encode: Encode,
    active: Option<Arc<ActiveConfig>>,
    range: Range,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared table")
    }
}

impl Collector for Part {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        match (self.encode, &self.active) {
            (Encode::Version(encode), _) => encode(&mut encoder),
            (Encode::Whole(encode), Some(active)) => encode(&mut encoder, active),
            (Encode::Targets(encode) | Encode::Nodes(encode), Some(active)) => {
                encode(&mut encoder, active, self.range.clone())
            }
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_cut_between_characters() {
        let text = format!("x{}", "aé".repeat(PIECE_MAX));
        let cut: Vec<&str> = pieces(&text).collect();
        assert!(cut.iter().all(|piece| piece.len() <= PIECE_MAX));
        assert_eq!(cut.concat(), text);
        assert_eq!(pieces("").count(), 0);
    }

    #[test]
    fn without_a_configuration_the_version_is_all() {
        let mut text = String::new();
        write_pieces(None, &mut |piece| text.push_str(piece));
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("nauthilus_backend_build_info{{version=\"{version}\"}} 1\n# EOF\n");
        assert!(text.ends_with(&line), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn the_head_of_a_family_is_all_that_is_left_out() {
        assert_eq!(length_of_head("# HELP a b\n# TYPE a gauge\na 1\n"), 26);
        assert_eq!(length_of_head("a 1\n"), 0);
    }
}
