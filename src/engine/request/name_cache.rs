//! A cache of values that are worked out from texts, such as the header of an attribute's name: scripts use
//! the same few texts in each request.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

/// The most values that are kept. One more empties the cache: scripts that use so many names gain nothing
/// from it.
const MOST: usize = 64;
/// Longer texts, in bytes, are not kept.
const LONGEST: usize = 64;

/// Values by the text they were made of.
pub(super) struct NameCache<T>(HashMap<Box<[u8]>, T, FxBuildHasher>);

impl<T: Clone> NameCache<T> {
    pub(super) const fn new() -> Self {
        Self(HashMap::with_hasher(FxBuildHasher))
    }

    /// The value of this text, made by `make` unless it is there.
    pub(super) fn get_or_make(&mut self, text: &[u8], make: impl FnOnce() -> T) -> T {
        if let Some(value) = self.0.get(text) {
            return value.clone();
        }
        let value = make();
        if text.len() <= LONGEST {
            if self.0.len() >= MOST {
                self.0.clear();
            }
            self.0.insert(text.into(), value.clone());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_until_there_are_too_many() {
        let mut cache = NameCache::new();
        let mut made = 0;
        let mut ask = |text: &[u8]| {
            let value = cache.get_or_make(text, || {
                made += 1;
                text.to_vec()
            });
            assert_eq!(value, text);
            made
        };
        assert_eq!(ask(b"hostip"), 1);
        assert_eq!(ask(b"hostip"), 1);
        assert_eq!(ask(b""), 2);
        let long = [b'a'; LONGEST + 1];
        assert_eq!(ask(&long), 3);
        assert_eq!(ask(&long), 4, "too long to be kept");
        assert_eq!(ask(&long[1..]), 5);
        for number in 3..MOST {
            ask(number.to_string().as_bytes());
        }
        let before = ask(b"hostip");
        assert_eq!(before, ask(b""), "as many as may be are kept");
        ask(b"one more");
        assert_eq!(ask(b"hostip"), before + 2, "made again");
        assert_eq!(ask(b"one more"), before + 2);
    }
}
