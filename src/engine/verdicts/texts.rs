//! Several short texts in consecutive shared words, with their lengths in another word.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Four texts: their lengths, 16 bits each, share one word.
pub(super) const TEXTS: usize = 4;

/// The longest beginning of `text` of at most `limit` bytes that ends between characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=text.len().min(limit))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// The lengths of texts, 16 bits each.
pub(super) fn pack_lengths(texts: &[&str; TEXTS]) -> u64 {
    texts.iter().rev().fold(0, |word, text| {
        word << 16 | u64::try_from(text.len()).unwrap_or(0) & 0xffff
    })
}

/// The texts in words, one directly after the other.
pub(super) fn to_words(texts: &[&str; TEXTS]) -> Vec<u64> {
    let bytes = texts.concat().into_bytes();
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    });
    words.collect()
}

/// The inverse of [`to_words`]. Where the lengths exceed the words, the texts end early.
pub(super) fn from_words<'a>(
    lengths: u64,
    words: impl Iterator<Item = &'a AtomicU64>,
) -> [String; TEXTS] {
    let length = |index: usize| {
        let shift = u32::try_from(index * 16).unwrap_or(0);
        usize::try_from(lengths >> shift & 0xffff).unwrap_or(0)
    };
    let all: usize = (0..TEXTS).map(length).sum();
    let mut bytes = Vec::with_capacity(all.min(1024));
    for word in words.take(all.div_ceil(8)) {
        bytes.extend(word.load(Relaxed).to_le_bytes());
    }
    let mut rest = bytes.as_slice();
    std::array::from_fn(|index| {
        let (text, behind) = rest.split_at(length(index).min(rest.len()));
        rest = behind;
        String::from_utf8_lossy(text).into_owned()
    })
}
