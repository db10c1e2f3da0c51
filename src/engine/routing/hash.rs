//! The hash for rendezvous hashing. Other programs may compute it too: `docs/routing.md` describes
//! it, with test vectors.
//!
//! Every hash is XXH3 with 64 bits and seed 0. The hash of a name is that of its bytes. The hash of
//! a user on a node is that of 16 bytes: the user's hash, then the node's, each in little-endian
//! order.

use twox_hash::XxHash3_64;

/// The hash of a user's key or of a node's or target's name.
pub(super) fn of_name(name: &[u8]) -> u64 {
    XxHash3_64::oneshot(name)
}

/// The hash of a user on a node, from the hashes of both.
pub(super) fn of_pair(user: u64, node: u64) -> u64 {
    let mut bytes = [0; 16];
    let (first, second) = bytes.split_at_mut(8);
    first.copy_from_slice(&user.to_le_bytes());
    second.copy_from_slice(&node.to_le_bytes());
    XxHash3_64::oneshot(&bytes)
}

/// The hash as a number between 0 and 1: (its upper 52 bits + 0.5) / 2^52, which a double represents
/// exactly.
pub(super) fn fraction(hash: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1_u64 << 52) as f64;
    ((hash >> 12) as f64 + 0.5) * UNIT
}

/// The score `weight / -ln(f)`, with `f` the [`fraction`] of the hash. The user belongs on the node
/// with the highest score.
pub(super) fn score(weight: u16, hash: u64) -> f64 {
    f64::from(weight) / -fraction(hash).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `docs/routing.md`: a program that computes other values routes users to other
    /// nodes.
    #[test]
    fn hashes_are_the_documented_ones() {
        let docs = include_str!("../../../docs/routing.md");
        for (user, node) in [
            ("alice@example.org", "node1.example.org"),
            ("alice@example.org", "node2.example.org"),
            ("bob", "192.0.2.1"),
            ("bob", "2001:db8::1"),
        ] {
            let (u, n) = (of_name(user.as_bytes()), of_name(node.as_bytes()));
            let pair = of_pair(u, n);
            let row = format!(
                "| `{user}` | `{node}` | `{u:016x}` | `{n:016x}` | `{pair:016x}` | {:.6} |",
                score(100, pair)
            );
            assert!(docs.contains(&row), "docs/routing.md lacks {row}");
        }
        // The value of the XXH3 reference implementation for an empty input.
        assert_eq!(of_name(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn a_score_is_positive_and_finite_at_both_ends() {
        for hash in [0, 1, u64::MAX / 2, u64::MAX] {
            let score = score(100, hash);
            assert!(score.is_finite() && score > 0.0, "{hash}: {score}");
        }
        assert_eq!(score(0, u64::MAX), 0.0);
    }
}
