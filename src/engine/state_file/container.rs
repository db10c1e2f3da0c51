//! The bytes of a state file: two contents that are written alternately, each with a checksum.
//!
//! The first page holds a title and two heads, a sector each. A head gives the number, offset,
//! length and checksum of its content, and ends with a checksum of itself. In force is the content
//! with the highest number of those whose checksums fit. The next content is written where neither
//! the content in force nor its head is, so that a full disk or a crash leaves the content in force
//! undamaged. Behind the first page is room for a request.

use super::text::hex_sum;

/// The longest content, in bytes: enough for some 100,000 targets.
pub(super) const FILE_MAX: usize = 64 * 1024 * 1024;

pub(super) const TITLE: &str = "nauthilus_backend state 2";

/// The size of a head, in bytes: a disk writes a sector as a whole or not at all.
const SECTOR: usize = 512;
/// The room for the title and the heads, in bytes. Every content begins at a multiple of it.
pub(super) const PAGE: usize = 4096;
/// The offset of the request, and its longest length in bytes.
pub(super) const REQUESTS_AT: u64 = 4096;
pub(super) const REQUEST_MAX: usize = 12 * 1024;
/// The lowest offset of a content.
pub(super) const CONTENTS_AT: u64 = 16 * 1024;

/// The head of a content: where it is, and its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Higher than the number of every content before.
    pub number: u64,
    pub offset: u64,
    pub length: usize,
    pub sum: String,
}

impl Head {
    /// The head of a new content, placed so that it does not overlap `last`, the content in force.
    pub(super) fn after(last: Option<&Self>, number: u64, content: &str) -> Self {
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let end = CONTENTS_AT.saturating_add(length);
        let offset = match last {
            Some(last) if last.offset < end => {
                let behind = last.end().max(CONTENTS_AT);
                behind.next_multiple_of(u64::try_from(PAGE).unwrap_or(1))
            }
            _ => CONTENTS_AT,
        };
        Self {
            number,
            offset,
            length: content.len(),
            sum: hex_sum(content.as_bytes()),
        }
    }

    /// Moves the content behind the first `length` bytes, which are of another format and still in
    /// force.
    pub(super) fn moved_behind(self, length: u64) -> Self {
        let page = u64::try_from(PAGE).unwrap_or(1);
        let offset = self.offset.max(length.next_multiple_of(page));
        Self { offset, ..self }
    }

    /// The first byte behind the content.
    pub(super) fn end(&self) -> u64 {
        let length = u64::try_from(self.length).unwrap_or(u64::MAX);
        self.offset.saturating_add(length)
    }

    /// The offset of the head's sector: the first one for even numbers, the second one for odd
    /// numbers.
    pub(super) fn place(&self) -> u64 {
        let sector = u64::try_from(SECTOR).unwrap_or(0);
        if self.number.is_multiple_of(2) {
            sector
        } else {
            2 * sector
        }
    }

    /// The bytes of the head's sector.
    pub(super) fn sector(&self) -> Vec<u8> {
        let line = format!(
            "head {} {} {} {}",
            self.number, self.offset, self.length, self.sum
        );
        let check = line_sum(&line);
        sector(&format!("{line} {check}"))
    }

    fn read(sector: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(sector).ok()?;
        let (line, check) = line.trim_ascii_end().rsplit_once(' ')?;
        if check != line_sum(line) {
            return None;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let ["head", number, offset, length, sum] = fields.as_slice() else {
            return None;
        };
        let head = Self {
            number: number.parse().ok()?,
            offset: offset.parse().ok()?,
            length: length.parse().ok()?,
            sum: (*sum).to_owned(),
        };
        // Numbers rise by one with each content. So large a number comes from a damaged file, and
        // accepting it would leave no higher number for the next content.
        let is_counted = head.number < u64::MAX / 2;
        let is_whole = head.length <= FILE_MAX && head.offset >= CONTENTS_AT;
        (is_whole && is_counted).then_some(head)
    }
}

/// The bytes of the title's sector.
pub(super) fn title() -> Vec<u8> {
    sector(TITLE)
}

/// A line, padded with blanks to a sector.
fn sector(line: &str) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    bytes.resize(SECTOR - 1, b' ');
    bytes.push(b'\n');
    bytes
}

fn line_sum(line: &str) -> String {
    let mut sum = hex_sum(line.as_bytes());
    sum.truncate(16);
    sum
}

pub(super) fn has_title(page: &[u8]) -> bool {
    page.get(..SECTOR) == Some(title().as_slice())
}

/// The heads of a first page, the newest first.
pub(super) fn heads(page: &[u8]) -> Vec<Head> {
    if !has_title(page) {
        return Vec::new();
    }
    let mut heads: Vec<Head> = page
        .chunks(SECTOR)
        .skip(1)
        .take(2)
        .filter_map(Head::read)
        .collect();
    // There are two at most.
    if !heads.is_sorted_by_key(|head| std::cmp::Reverse(head.number)) {
        heads.reverse();
    }
    heads
}

/// Whether these bytes are the head's content, by length and checksum.
pub(super) fn fits(head: &Head, content: &[u8]) -> bool {
    content.len() == head.length && hex_sum(content) == head.sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_as_it_was_written_and_every_change_is_noticed() {
        let head = Head::after(None, 8, "content");
        let good = head.sector();
        assert_eq!(good.len(), SECTOR);
        assert_eq!(Head::read(&good), Some(head));
        let length = good
            .iter()
            .rposition(|&byte| byte != b' ' && byte != b'\n')
            .unwrap()
            + 1;
        for at in 0..length {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            assert_eq!(Head::read(&damaged), None, "byte {at}");
        }
    }

    /// The number after it would not fit.
    #[test]
    fn a_number_that_nobody_has_counted_to_is_refused() {
        let head = Head::after(None, u64::MAX, "content");
        assert_eq!(Head::read(&head.sector()), None);
    }

    #[test]
    fn the_content_that_counts_is_never_written_over() {
        let mut last: Option<Head> = None;
        // Contents grow and shrink, and none may overlap the one before it.
        for (number, length) in [10, 20, 5000, 3, 100_000, 99_999, 1, 1, 50_000]
            .into_iter()
            .enumerate()
        {
            let content = "x".repeat(length);
            let next = Head::after(last.as_ref(), u64::try_from(number).unwrap(), &content);
            if let Some(last) = &last {
                assert!(next.end() <= last.offset || next.offset >= last.end());
                assert_ne!(next.place(), last.place());
            }
            assert!(next.offset >= CONTENTS_AT);
            last = Some(next);
        }
    }

    #[test]
    fn every_version_has_the_title_by_which_a_state_file_is_recognised() {
        for title in [TITLE, super::super::version_1::TITLE] {
            assert!(title.starts_with(crate::sys::state_file::TITLE));
        }
    }

    #[test]
    fn the_newest_head_comes_first() {
        let (old, new) = (Head::after(None, 6, "a"), Head::after(None, 7, "b"));
        let page = [title(), old.sector(), new.sector()].concat();
        assert_eq!(heads(&page), [new.clone(), old.clone()]);
        let page = [title(), new.sector(), vec![0; SECTOR]].concat();
        assert_eq!(heads(&page), [new]);
        assert_eq!(heads(&[vec![0; SECTOR], old.sector()].concat()), []);
    }
}
