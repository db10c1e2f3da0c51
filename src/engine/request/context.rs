//! The request context: what scripts decide during one request.
//!
//! The final attributes are (base − removed) + applied, whatever the order of the calls: a name
//! the base result has keeps its base value unless it was removed, and among applied values
//! the later wins. Each final attribute becomes one response header; names are case-sensitive,
//! but two that give the same header count as one header, and the later wins (base before
//! applied, an earlier call before a later one, and within one result in order of names).

use smallvec::SmallVec;
use std::cell::LazyCell;

use super::attribute_name::AttributeName;
use super::header_name;
use super::headers::{self, Header, RefusedAttribute};
use super::result::{AttributeValue, Attributes, BackendResult, Bytes};
use super::secret_names::{exposed, exposed_version};
use super::shared::Shared;

mod applied;
mod attribute_headers;
mod changes;
mod removed;
mod report;

use applied::Applied;
use attribute_headers::{AttributeHeaders, HeaderList};
pub use changes::{ChangeList, Changes, Headers, HeadersCopy};
use removed::Removed;

/// An address or a host's name: an address needs no memory of its own.
pub type HostText = SmallVec<[u8; 40]>;

/// The server selected for the request.
#[derive(Debug, PartialEq)]
pub struct Selection {
    /// An address literal without brackets, or a host name.
    pub ip: HostText,
    /// 1..=65535.
    pub port: u16,
}

impl Clone for Selection {
    fn clone(&self) -> Self {
        Self {
            // `SmallVec`'s own way to copy goes byte by byte.
            ip: HostText::from_slice(&self.ip),
            port: self.port,
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct RequestContext {
    applied: Applied,
    selection: Option<Selection>,
    /// The selection that the host heard of, unless that is `selection`.
    selection_before: Option<Option<Selection>>,
    more: Option<Box<More>>,
    headers: AttributeHeaders,
}

/// What most requests do without: it has memory of its own once something is noted.
#[derive(Debug, Default)]
struct More {
    base: BackendResult,
    /// Groups of applied results, tidied.
    applied_groups: Vec<Bytes>,
    removed: Removed,
    /// How many of these names the host heard of.
    reported_removed: usize,
    /// Attributes named as secrets by the fields of applied results. Those of the base result
    /// are asked there.
    secret_fields: Vec<Bytes>,
}

impl RequestContext {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the result that scripts build on. A copy is taken.
    ///
    /// # Errors
    ///
    /// Where one of its attributes cannot become a header; nothing is changed then.
    pub fn set_base(&mut self, base: BackendResult) -> Result<(), RefusedAttribute> {
        check(&base.attributes)?;
        self.make_up_headers();
        self.more_mut().base = base;
        self.headers.outdate();
        Ok(())
    }

    /// Merges a result's attributes and groups. A copy is taken; its other fields are not merged.
    ///
    /// # Errors
    ///
    /// Where one of its attributes cannot become a header; nothing is changed then.
    pub fn apply(&mut self, result: &BackendResult) -> Result<(), RefusedAttribute> {
        check(&result.attributes)?;
        self.make_up_headers();
        self.applied.add(&result.attributes);
        if result.details.is_some() {
            self.apply_details(result);
        }
        self.headers.outdate();
        Ok(())
    }

    #[cold]
    fn apply_details(&mut self, result: &BackendResult) {
        for field in result.secret_fields() {
            let more = self.more_mut();
            if !more.secret_fields.contains(field) {
                more.secret_fields.push(field.clone());
            }
        }
        if !result.groups.is_empty() {
            let more = self.more_mut();
            let before = std::mem::take(&mut more.applied_groups);
            more.applied_groups = tidy(before.iter().chain(&result.groups));
        }
    }

    /// Removes attributes of the base result. Any bytes are allowed: what cannot be a name
    /// matches nothing.
    pub fn remove<N: AsRef<[u8]>>(&mut self, names: impl IntoIterator<Item = N>) {
        self.make_up_headers();
        let more = self.more_mut();
        let before = more.removed.names().len();
        for name in names {
            more.removed.add(name.as_ref());
        }
        if more.removed.names().len() > before {
            self.headers.outdate();
        }
    }

    /// Selects the server; a later call replaces an earlier one. `ip` is what
    /// [`super::server_address::ServerAddress`] accepted, `port` is 1..=65535.
    pub fn select(&mut self, ip: impl AsRef<[u8]>, port: u16) {
        let last = self.selection.replace(Selection {
            ip: HostText::from_slice(ip.as_ref()),
            port,
        });
        self.selection_before.get_or_insert(last);
    }

    pub fn selected(&self) -> Option<&Selection> {
        self.selection.as_ref()
    }

    /// The names removed so far, in order of the calls, each once.
    pub fn removed(&self) -> &[AttributeName] {
        self.more().removed.names()
    }

    /// The final attributes.
    pub fn attributes(&self) -> Attributes {
        match &self.applied {
            Applied::Nothing if self.removed().is_empty() => self.base().attributes.clone(),
            Applied::Once(applied) if self.base().attributes.is_empty() => applied.clone(),
            _ => Attributes::from_pairs(
                self.final_attributes()
                    .map(|(_, name, value)| (name.clone(), value.clone())),
            ),
        }
    }

    /// The groups of the base result and of the applied ones: trimmed, sorted, unique.
    pub fn groups(&self) -> Vec<Bytes> {
        tidy(self.base().groups.iter().chain(&self.more().applied_groups))
    }

    /// The base result with the final attributes and groups: a copy.
    pub fn current_result(&self) -> BackendResult {
        let mut result = self.base().clone();
        result.attributes = self.attributes();
        result.groups = self.groups();
        result
    }

    /// The response headers: `Auth-Server` and `Auth-Port` where a server was selected, then
    /// one for each final attribute that is not withheld, sorted by name.
    pub fn headers(&mut self) -> Headers<'_> {
        self.update_headers();
        Headers {
            selection: self.selection.as_ref(),
            attributes: self.headers.list(),
        }
    }

    /// Forgets everything, the base result too.
    pub fn reset(&mut self) {
        self.make_up_headers();
        let last = self.selection.take();
        let selection_before = Some(self.selection_before.take().unwrap_or(last));
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self {
            selection_before,
            headers,
            ..Self::default()
        };
    }

    /// Makes it a new one, for another request.
    pub fn clear(&mut self) {
        // By parts: most of them are as they were, and it is long.
        let Self {
            applied,
            selection,
            selection_before,
            more,
            headers,
        } = self;
        *applied = Applied::Nothing;
        *selection = None;
        *selection_before = None;
        *more = None;
        headers.renew();
    }

    /// What became of the response headers since this was last asked: for hosts that set and
    /// clear them at once.
    ///
    /// A removed name is reported as vanished also where this context never had its header:
    /// someone else may have set it.
    pub fn take_changes(&mut self) -> ChangeList {
        self.update_headers();
        let list = self.changes().list();
        self.note_reported();
        list
    }

    /// Makes the list that [`Self::apply_and_report`] had no need for.
    fn make_up_headers(&mut self) {
        if self.headers.is_unmade() {
            self.make_up_first_header();
        }
    }

    #[cold]
    fn make_up_first_header(&mut self) {
        let list = self.make_headers(|_| false);
        self.headers.set_up(list, exposed_version());
    }

    /// The host has none of the headers, for all that is known.
    pub fn report_anew(&mut self) {
        self.make_up_headers();
        self.headers.report_anew();
        self.selection_before = Some(None);
        if let Some(more) = &mut self.more {
            more.reported_removed = 0;
        }
    }

    fn note_reported(&mut self) {
        self.headers.note_reported();
        self.selection_before = None;
        if let Some(more) = &mut self.more {
            more.reported_removed = more.removed.names().len();
        }
    }

    /// For headers that are up to date.
    fn changes(&self) -> Changes<'_> {
        let newly_removed = self.removed().get(self.more().reported_removed..);
        let after = self.headers.list();
        Changes {
            selection: self.selection_change(),
            removed: newly_removed.unwrap_or_default(),
            attributes: (!self.headers.is_reported()).then(|| (self.headers.reported(), after)),
            after,
        }
    }

    /// The selection where it is another than was reported; `Some(None)` where it vanished.
    fn selection_change(&self) -> Option<Option<&Selection>> {
        match &self.selection_before {
            None => None,
            Some(None) => self.selection.as_ref().map(Some),
            Some(before) => (*before != self.selection).then_some(self.selection.as_ref()),
        }
    }

    fn more(&self) -> &More {
        static NOTHING: More = More {
            base: BackendResult::new(),
            reported_removed: 0,
            applied_groups: Vec::new(),
            removed: Removed::new(),
            secret_fields: Vec::new(),
        };
        self.more.as_deref().unwrap_or(&NOTHING)
    }

    fn base(&self) -> &BackendResult {
        &self.more().base
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn has_attributes(&self) -> bool {
        !self.base().attributes.is_empty() || !matches!(self.applied, Applied::Nothing)
    }

    fn update_headers(&mut self) {
        self.make_up_headers();
        let has_attributes = self.has_attributes();
        if !self.headers.is_current(has_attributes, exposed_version) {
            let version = exposed_version();
            let list = if has_attributes {
                // One policy for the whole list, asked for where a secret is met.
                let policy = LazyCell::new(exposed);
                self.make_headers(|name| policy.as_ref().is_some_and(|p| p.contains(name)))
            } else {
                HeaderList::new()
            };
            self.headers.set(list, version);
        }
    }

    fn make_headers(&self, is_exposed: impl Fn(&[u8]) -> bool) -> HeaderList {
        let header = |name, value| self.header(name, value, &is_exposed);
        let mut list = HeaderList::new();
        match &self.applied {
            // What most requests have needs no merging.
            Applied::Once(attributes) if self.base().attributes.is_empty() => {
                list.extend(attributes.iter().filter_map(|(n, v)| header(n, v)));
            }
            _ => {
                let mut made: Vec<(u64, Header)> = self
                    .final_attributes()
                    .filter_map(|(call, name, value)| Some((call, header(name, value)?)))
                    .collect();
                made.sort_by_key(|(call, _)| *call);
                list.extend(made.into_iter().map(|(_, header)| header));
            }
        }
        one_per_name(list)
    }

    /// The header that an attribute becomes; none where it is withheld.
    fn header(
        &self,
        name: &AttributeName,
        value: &AttributeValue,
        is_exposed: impl Fn(&[u8]) -> bool,
    ) -> Option<Header> {
        if self.is_secret(name) && !is_exposed(name) {
            return None;
        }
        Some(Header {
            name: name.header()?.clone(),
            value: headers::value(name, value),
        })
    }

    /// Whether an attribute is a secret by its name, or because a result says so. A result
    /// means the header: `totpSeed` and `totpseed` are one.
    fn is_secret(&self, name: &AttributeName) -> bool {
        name.means_secret()
            || self
                .base()
                .secret_fields()
                .chain(&self.more().secret_fields)
                .any(|field| header_name::same_name(field, name))
    }

    /// The number of the call (0 for the base), name and value of each final attribute: the
    /// base's by name, then the applied ones by name.
    fn final_attributes(&self) -> impl Iterator<Item = (u64, &AttributeName, &AttributeValue)> {
        let removed = &self.more().removed;
        let base = self
            .base()
            .attributes
            .iter()
            .filter(|(name, _)| !removed.contains(name))
            .map(|(name, value)| (0, name, value));
        let applied = self.applied.iter().filter(|(_, name, _)| {
            removed.contains(name) || !self.base().attributes.contains(name)
        });
        base.chain(applied)
    }
}

/// Sorted by name; of several with one name the last.
fn one_per_name(mut list: HeaderList) -> HeaderList {
    if !list.is_sorted_by(|a, b| a.name < b.name) {
        // Stable.
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
    }
    list
}

fn check(attributes: &Attributes) -> Result<(), RefusedAttribute> {
    attributes
        .iter()
        .try_for_each(|(name, value)| headers::check(name, value))
}

/// Trimmed of ASCII white space, sorted, each once, none empty.
fn tidy<'a>(groups: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
    let mut tidied: Vec<Bytes> = groups
        .map(|group| group.trim_ascii())
        .filter(|group| !group.is_empty())
        .map(Bytes::from)
        .collect();
    tidied.sort_unstable();
    tidied.dedup();
    tidied
}

/// A context with several holders: Lua and C see the same data.
pub type SharedContext = Shared<RequestContext>;

#[cfg(test)]
mod tests;
