//! Writes a content into the open file, beside the content in force.

use super::container::{FILE_MAX, Head, PAGE, fits, has_title, heads, title};
use crate::sys::state_file::StateFile;

/// The number of the newest content, as the heads say; 0 where there is none.
pub(super) fn newest(file: &StateFile) -> u64 {
    let page = file.read_at(0, PAGE).unwrap_or_default();
    heads(&page).first().map_or(0, |head| head.number)
}

/// Writes a content where neither the content in force nor its head is, and returns the new
/// content's number. Where this fails, the content before stays in force.
pub(super) fn write_content(file: &StateFile, content: &str) -> std::io::Result<u64> {
    if content.len() > FILE_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let page = file.read_at(0, PAGE)?;
    // The content in force: the newest one that a reader would accept.
    let last = heads(&page).into_iter().find(|head| {
        file.read_at(head.offset, head.length)
            .is_ok_and(|bytes| fits(head, &bytes))
    });
    let number = heads(&page)
        .first()
        .map_or(1, |head| head.number.saturating_add(1));
    // The number's parity selects the head's sector, which must not be that of the content in
    // force.
    let number = match &last {
        Some(last) if (number - last.number).is_multiple_of(2) => number.saturating_add(1),
        _ => number,
    };
    let head = Head::after(last.as_ref(), number, content);
    // A file of version 1 has its only content from byte 0 on: the new content goes behind all of
    // it.
    let head = match file.length()? {
        length if !has_title(&page) && length > 0 => head.moved_behind(length),
        _ => head,
    };
    file.write_at(head.offset, content.as_bytes())?;
    if has_title(&page) {
        file.write_at(head.place(), &head.sector())?;
    } else {
        let mut first = title();
        first.resize(PAGE, 0);
        let place = usize::try_from(head.place()).unwrap_or(0);
        for (to, from) in first.iter_mut().skip(place).zip(head.sector()) {
            *to = from;
        }
        file.write_at(0, &first)?;
    }
    file.sync()?;
    // Bytes behind both contents are left from a longer content before them.
    let end = last.map_or(0, |last| last.end()).max(head.end());
    if file.length()? > end {
        file.set_length(end)?;
    }
    Ok(head.number)
}
