//! The scripts that run inside Redis: their arguments and their answers. No I/O.
//!
//! All times are microseconds of Redis's clock since 1970; the scripts count milliseconds. A script
//! that finds its deadline in the past writes nothing.
//!
//! All keys have the prefix in braces, Redis Cluster's hash tag: a script may use the keys of one
//! server only, and a login reads the registrations of machines beside the user's record.

mod answer;
mod flush;
mod login;
mod operate;
mod sync;

use hmac::{Hmac, KeyInit, Mac};
use redis::Value;
use sha2::{Digest, Sha256};

pub use flush::{FlushAnswer, FlushStep};
pub use login::{LoginAnswer, LoginHow, LoginRequest, SeenNode};
pub use operate::{Forget, Hold, MoveUser, Operated, Touch, Touched};
pub use sync::{ClusterSetting, NodeCount, OtherMachine, OwnNode, Sync, Synced};

/// A call of one script.
pub trait ScriptCall {
    type Answer;
    /// The script's source in Lua.
    const SOURCE: &'static str;

    /// The keys that the script uses, all with one hash tag. `prefix` is the configured one.
    fn keys(&self, prefix: &str) -> Vec<Vec<u8>>;

    /// The arguments, as the head of the script's file describes them.
    fn arguments(&self) -> Vec<Vec<u8>>;

    /// # Errors
    /// The answer is not one that this script gives.
    fn parse(&self, answer: Value) -> Result<Self::Answer, BadAnswer>;

    /// Gives the call another deadline.
    fn set_deadline(&mut self, deadline: u64);

    /// The time of Redis's clock, if the deadline was over and the script has changed nothing.
    fn late(answer: &Self::Answer) -> Option<u64>;
}

/// The source of a script: what all of them share, then its own file.
macro_rules! source {
    ($file:literal) => {
        concat!(
            include_str!("../scripts/common.lua"),
            include_str!(concat!("../scripts/", $file))
        )
    };
}
use source;

/// An answer that the script cannot have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer(pub &'static str);

/// SHA-256 or HMAC-SHA-256 of a user's key, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserDigest(pub String);

impl UserDigest {
    /// The digest of a user's key. With a secret nobody who reads the store can find out, by
    /// hashing the names of users, which of them it has.
    pub fn of(user_key: &[u8], secret: Option<&[u8]>) -> Self {
        let bytes = match secret.map(Hmac::<Sha256>::new_from_slice) {
            Some(Ok(mut hmac)) => {
                hmac.update(user_key);
                hmac.finalize().into_bytes()
            }
            // HMAC takes a secret of any length, so this only happens without a secret.
            Some(Err(_)) | None => Sha256::digest(user_key),
        };
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A record that this machine has read or written before. Each login sends it, so that a store that has lost
/// its data gets the record back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Empty: the user was released or forgotten, or is only held. For a node that this machine does not
    /// have: [`nameless`].
    pub node: String,
    /// The same of the node that the user was moved from; empty: none. `move_delay` and `min_stay` apply only
    /// after a move.
    pub from: String,
    pub since: u64,
    /// When it ends unless it is renewed; 0: never.
    pub until: u64,
    /// Until when the user is held; 0: the user is not.
    pub held: u64,
    /// Until when some machine may remember a record that this one has replaced; [`NEVER`]: for ever.
    pub remains: u64,
    pub generation: u64,
}

/// What a machine gives for the name of a node of which it remembers only the digest, because it does not have
/// the node.
pub fn nameless(digest: u64) -> String {
    format!("\t{digest:016x}")
}

/// The end of what has none, where 0 is not the word for it: the scripts' largest number of milliseconds.
pub const NEVER: u64 = ((1 << 53) - 1) * US_PER_MS;

/// A user's record in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Empty: the user is not bound.
    pub node: String,
    /// The node that the user was moved from; empty: none.
    pub from: String,
    pub since: u64,
    /// When it ends unless it is renewed; 0: never.
    pub until: u64,
    /// Until when the user is held; 0: the user is not.
    pub held: u64,
    /// Until when the record stays in the store, so that no machine writes a record back that this one has
    /// replaced; [`NEVER`]: for ever.
    pub remains: u64,
    /// When the binding ends as things are: `until`, or earlier because its node is draining; 0: never.
    pub ends: u64,
    pub generation: u64,
    /// Why the user was moved or bound there.
    pub reason: String,
    /// Who moved or bound the user: an operator, or the name of a machine.
    pub by: String,
}

impl Binding {
    /// The part of the record that a machine remembers.
    pub fn remembered(&self) -> Remembered {
        Remembered {
            node: self.node.clone(),
            from: self.from.clone(),
            since: self.since,
            until: self.until,
            held: self.held,
            remains: self.remains,
            generation: self.generation,
        }
    }
}

/// The key of a user's record.
pub fn user_record(prefix: &str, user: &UserDigest) -> Vec<u8> {
    format!("{{{prefix}}}:user:{}", user.0).into_bytes()
}

/// A pattern of SCAN for the records of all users.
fn user_records(prefix: &str) -> String {
    let mut pattern = String::from("{");
    for letter in prefix.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + "}:user:*"
}

/// The keys that every script gets first, then those of the users.
fn keys<'u>(prefix: &str, users: impl IntoIterator<Item = &'u UserDigest>) -> Vec<Vec<u8>> {
    let shared = ["store", "machines", "users"].map(|name| format!("{{{prefix}}}:{name}"));
    let users = users.into_iter().map(|user| user_record(prefix, user));
    shared
        .map(String::into_bytes)
        .into_iter()
        .chain(users)
        .collect()
}

/// The arguments of a script, in order.
#[derive(Default)]
struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    /// Every script gets its deadline first.
    fn new(deadline: u64) -> Self {
        Self::default().time(deadline)
    }

    fn text(mut self, text: &str) -> Self {
        self.0.push(text.as_bytes().to_vec());
        self
    }

    fn number(self, number: u64) -> Self {
        self.text(itoa::Buffer::new().format(number))
    }

    fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }

    fn time(self, us: u64) -> Self {
        self.number(us / US_PER_MS)
    }

    /// In whole milliseconds, rounded up: 0 has a meaning of its own.
    fn duration(self, duration: std::time::Duration) -> Self {
        let ms = duration.as_nanos().div_ceil(1_000_000);
        self.number(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    fn remembered(self, remembered: Option<&Remembered>) -> Self {
        let Some(one) = remembered else {
            return (0..7).fold(self, |arguments, _| arguments.text(""));
        };
        self.number(one.generation)
            .text(&one.node)
            .time(one.since)
            .time(one.until)
            .text(&one.from)
            .time(one.held)
            .time(one.remains)
    }
}

/// Microseconds in a millisecond.
const US_PER_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_published_ones() {
        // FIPS 180-2, appendix B.1; RFC 4231, test case 2.
        assert_eq!(
            UserDigest::of(b"abc", None).0,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            UserDigest::of(b"what do ya want for nothing?", Some(b"Jefe")).0,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn only_no_time_at_all_is_sent_as_0() {
        let sent = |ns| {
            let duration = std::time::Duration::from_nanos(ns);
            Arguments::default().duration(duration).0
        };
        assert_eq!(sent(0), [b"0"]);
        assert_eq!(sent(1), [b"1"]);
        assert_eq!(sent(2_000_000), [b"2"]);
        assert_eq!(sent(2_000_001), [b"3"]);
    }

    #[test]
    fn a_pattern_matches_the_prefix_literally() {
        assert_eq!(user_records("a*b[c]"), r"{a\*b\[c\]}:user:*");
    }

    #[test]
    fn all_keys_of_a_script_have_one_hash_tag() {
        let keys = keys("mail", [&UserDigest("ab".to_owned())]);
        assert!(
            keys.iter().all(|key| key.starts_with(b"{mail}:")),
            "{keys:?}"
        );
        assert_eq!(keys.last().map(Vec::as_slice), Some(&b"{mail}:user:ab"[..]));
    }
}
