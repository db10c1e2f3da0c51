//! Reports to hosts that set a response header the moment it is decided.

use super::super::headers::{self, RefusedAttribute};
use super::super::result::{Attributes, BackendResult};
use super::applied::Applied;
use super::{HostText, RequestContext, Selection};

impl RequestContext {
    /// As [`Self::take_changes`] by `set`, which sets or clears a header and says whether it did. True where it did so
    /// with all there were, or there was nothing to report. Once it says false it is not called again,
    /// and nothing counts as reported, though the host has some: it is to be told in another way
    /// ([`Self::take_changes`]) before anything else changes.
    // Most requests do with the two below: it is not to lie between what those do.
    #[cold]
    pub fn report(&mut self, set: &mut dyn FnMut(&str, Option<&[u8]>) -> bool) -> bool {
        self.update_headers();
        let mut all_set = true;
        self.changes()
            .for_each(|name, value| all_set = all_set && set(name, value));
        if all_set {
            self.note_reported();
        }
        all_set
    }

    /// [`Self::select`], then [`Self::report`]: in one where it is the first selection and nothing else
    /// is to be reported.
    pub fn select_and_report(
        &mut self,
        ip: &[u8],
        port: u16,
        mut set: impl FnMut(&str, Option<&[u8]>) -> bool,
    ) -> bool {
        let is_first = self.selection.is_none()
            && self.selection_before.is_none()
            && self.more.is_none()
            && self.headers.needs_no_list();
        if !is_first {
            self.select(ip, port);
            return self.report(&mut set);
        }
        let selection = self.selection.insert(Selection {
            ip: HostText::from_slice(ip),
            port,
        });
        let mut all_set = true;
        selection.for_each_header(&mut |name, value| all_set = all_set && set(name, Some(value)));
        if !all_set {
            self.selection_before = Some(None);
        }
        all_set
    }

    /// [`Self::apply`], then [`Self::report`]: in one, and without a list of headers, where the result
    /// has one attribute, a text that nothing could withhold, it is the first, and nothing else is to be
    /// reported.
    ///
    /// # Errors
    ///
    /// As of [`Self::apply`].
    pub fn apply_and_report(
        &mut self,
        result: &BackendResult,
        mut set: impl FnMut(&str, Option<&[u8]>) -> bool,
    ) -> Result<bool, RefusedAttribute> {
        let is_first = matches!(self.applied, Applied::Nothing)
            && self.selection_before.is_none()
            && self.more.is_none()
            && self.headers.is_new()
            && result.details.is_none();
        let only = result.attributes.single().filter(|_| is_first);
        let header = only.and_then(|(name, value)| Some((name, headers::of_text(name, value)?)));
        let Some((name, (text, header))) = header else {
            self.apply(result)?;
            return Ok(self.report(&mut set));
        };
        self.applied = Applied::Once(Attributes::text(name.clone(), text));
        let is_set = set(header, Some(text));
        if is_set {
            self.headers.note_first_reported();
        } else {
            self.headers.outdate();
        }
        Ok(is_set)
    }
}
