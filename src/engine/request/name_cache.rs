//! What was lately made of short texts, so that it need not be made again.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// How many are kept, each at the place that its text's hash says: a power of two.
const PLACES: usize = 64;
/// Longer texts, in bytes, are not worth looking for.
const LONGEST: usize = 64;

/// Values by the text they were made of. One that needs another's place takes it.
pub(super) struct Recent<T> {
    places: [Option<(Box<[u8]>, T)>; PLACES],
}

impl<T: Clone> Recent<T> {
    pub(super) const fn new() -> Self {
        Self {
            places: [const { None }; PLACES],
        }
    }

    /// The value of this text, made by `make` unless it is there.
    pub(super) fn get_or_make(&mut self, text: &[u8], make: impl FnOnce() -> T) -> T {
        if text.len() > LONGEST {
            return make();
        }
        let Some(place) = self.places.get_mut(place_of(text)) else {
            return make();
        };
        match place {
            Some((known, value)) if **known == *text => value.clone(),
            _ => {
                let value = make();
                *place = Some((text.into(), value.clone()));
                value
            }
        }
    }
}

/// Who chooses texts that meet at one place only makes them be made again.
fn place_of(text: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(text);
    hasher.finish() as usize & (PLACES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_and_made_again_after_another_took_its_place() {
        let mut recent = Recent::new();
        let mut made = 0;
        let mut ask = |text: &[u8]| {
            let value = recent.get_or_make(text, || {
                made += 1;
                text.to_vec()
            });
            assert_eq!(value, text);
            made
        };
        assert_eq!(ask(b"hostip"), 1);
        assert_eq!(ask(b"hostip"), 1);
        assert_eq!(ask(b""), 2);
        let other = (0..)
            .map(|number: u32| number.to_string())
            .find(|text| place_of(text.as_bytes()) == place_of(b"hostip"))
            .unwrap();
        assert_eq!(ask(other.as_bytes()), 3);
        assert_eq!(ask(b"hostip"), 4);
        let long = [b'a'; LONGEST + 1];
        assert_eq!(ask(&long), 5);
        assert_eq!(ask(&long), 6);
        assert_eq!(ask(&long[1..]), 7);
    }
}
