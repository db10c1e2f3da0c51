//! The request context: what scripts decide during one request.
//!
//! The final attributes are (base − removed) + applied, whatever the order of the calls: an attribute of
//! the base result keeps its value unless its name was removed, and of several applied values of a name
//! the latest counts. Each final attribute becomes one response header. Names are case-sensitive, but if
//! two names give the same header, it has the value of the later attribute. The order is: the base
//! result, then the applied ones in order of their calls, and within one result the order of names.

use std::cell::LazyCell;

use super::attribute_name::AttributeName;
use super::header_name;
use super::headers::{self, Header, RefusedAttribute};
use super::result::{AttributeValue, Attributes, BackendResult, Bytes};
use super::secret_names::{exposed, exposed_version};
use super::shared::Shared;

mod applied;
mod changes;
mod removed;
mod selection;

use applied::Applied;
pub use changes::{ChangeList, Headers, HeadersCopy};
use changes::{Changes, HeaderList};
use removed::Removed;
pub use selection::{HostText, Selection};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct RequestContext {
    applied: Applied,
    selection: Option<Selection>,
    more: Option<Box<More>>,
    /// The headers of the final attributes, kept for callers that read them one by one. `None` until they are
    /// first read, and again after any change of the attributes.
    now: Option<Box<AttributeHeaders>>,
    /// The headers that were last reported to the host.
    reported: Reported,
}

/// The headers of the final attributes, made under one policy.
#[derive(Debug)]
struct AttributeHeaders {
    list: HeaderList,
    /// The version of the policy (`expose_attributes`) that decided which are withheld.
    policy: u64,
}

/// The response headers that were last reported to the host.
#[derive(Debug, Default)]
struct Reported {
    selection: Option<Selection>,
    attributes: HeaderList,
    /// How many of the removed names, in order of the calls, were reported as removed.
    removed: usize,
}

/// The parts of a context that most requests do not use. Allocated on first use, so that most contexts stay
/// small.
#[derive(Debug, Default)]
struct More {
    base: BackendResult,
    /// Groups of applied results: trimmed, sorted, unique.
    applied_groups: Vec<Bytes>,
    removed: Removed,
    /// Attributes that the fields of applied results name as secrets. The base result's own fields
    /// are read from the base result.
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
        self.more_mut().base = base;
        self.now = None;
        Ok(())
    }

    /// Merges a result's attributes and groups. A copy is taken; its other fields are not merged.
    ///
    /// # Errors
    ///
    /// Where one of its attributes cannot become a header; nothing is changed then.
    pub fn apply(&mut self, result: &BackendResult) -> Result<(), RefusedAttribute> {
        check(&result.attributes)?;
        self.applied.add(&result.attributes);
        if result.details.is_some() {
            self.apply_details(result);
        }
        self.now = None;
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
        let more = self.more_mut();
        let before = more.removed.names().len();
        for name in names {
            more.removed.add(name.as_ref());
        }
        if more.removed.names().len() > before {
            self.now = None;
        }
    }

    /// Selects the server; a later call replaces an earlier one. `ip` is what
    /// [`super::server_address::ServerAddress`] accepted, `port` is 1..=65535.
    #[inline]
    pub fn select(&mut self, ip: impl AsRef<[u8]>, port: u16) {
        self.selection = Some(Selection {
            ip: HostText::from_slice(ip.as_ref()),
            port,
        });
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

    /// The response headers: `Auth-Server` and `Auth-Port` if a server was selected, then
    /// one for each final attribute that is not withheld, sorted by name.
    pub fn headers(&mut self) -> Headers<'_> {
        // The version is read before the policy. If a policy is set in between, the list gets an outdated
        // version and is made again; in the other order it would keep an old policy with a new version.
        let version = exposed_version();
        if self.now.as_ref().is_none_or(|now| now.policy != version) {
            self.now = Some(Box::new(AttributeHeaders {
                list: self.attribute_headers(),
                policy: version,
            }));
        }
        Headers {
            selection: self.selection.as_ref(),
            attributes: self.now.as_ref().map_or(&[], |now| &now.list),
        }
    }

    /// Forgets everything, the base result too. The host still has the headers that were reported: the next
    /// report clears them.
    pub fn reset(&mut self) {
        let reported = Reported {
            removed: 0,
            ..std::mem::take(&mut self.reported)
        };
        *self = Self {
            reported,
            ..Self::default()
        };
    }

    /// Makes it as new, for another request.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The changes of the response headers since this was last called, or since the last report. For hosts
    /// that set and clear headers at once.
    ///
    /// The header of a removed name is cleared even if this context never had it: the host or another
    /// module may have set it.
    pub fn take_changes(&mut self) -> ChangeList {
        let now = self.attribute_headers();
        let list = self.changes(&now).list();
        self.note_reported(now);
        list
    }

    /// Reports the changes that [`Self::take_changes`] would return. `set` sets or clears a header of the host
    /// and returns whether that succeeded. Returns whether all changes succeeded.
    ///
    /// After the first failure `set` is not called again and nothing counts as reported, though
    /// the host has some of the changes. The caller then has to tell the host in another way
    /// ([`Self::take_changes`]) before it changes anything else.
    pub fn report(&mut self, set: &mut dyn FnMut(&str, Option<&[u8]>) -> bool) -> bool {
        let now = self.attribute_headers();
        let mut all_set = true;
        self.changes(&now)
            .for_each(|name, value| all_set = all_set && set(name, value));
        if all_set {
            self.note_reported(now);
        }
        all_set
    }

    /// Assumes that the host has none of the headers: the next report has all of them.
    pub fn report_anew(&mut self) {
        self.reported = Reported::default();
    }

    fn note_reported(&mut self, now: HeaderList) {
        if self.reported.selection != self.selection {
            self.reported.selection.clone_from(&self.selection);
        }
        self.reported.attributes = now;
        self.reported.removed = self.removed().len();
    }

    /// The differences between the reported headers and those of now. `now`: the headers of the attributes.
    fn changes<'a>(&'a self, now: &'a [Header]) -> Changes<'a> {
        Changes {
            before: Headers {
                selection: self.reported.selection.as_ref(),
                attributes: &self.reported.attributes,
            },
            after: Headers {
                selection: self.selection.as_ref(),
                attributes: now,
            },
            removed: self
                .removed()
                .get(self.reported.removed..)
                .unwrap_or_default(),
        }
    }

    /// The headers that the final attributes become under the present policy.
    fn attribute_headers(&self) -> HeaderList {
        if self.base().attributes.is_empty() && matches!(self.applied, Applied::Nothing) {
            return HeaderList::new();
        }
        // One policy for the whole list, loaded when the first secret is met.
        let policy = LazyCell::new(exposed);
        self.make_headers(|name| policy.as_ref().is_some_and(|p| p.contains(name)))
    }

    fn more(&self) -> &More {
        static NOTHING: More = More {
            base: BackendResult::new(),
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

    fn make_headers(&self, is_exposed: impl Fn(&[u8]) -> bool) -> HeaderList {
        let header = |name, value| self.header(name, value, &is_exposed);
        let mut list = HeaderList::new();
        match &self.applied {
            // Attributes of one result only: they are sorted and there is nothing to merge.
            Applied::Once(attributes) if self.base().attributes.is_empty() => {
                for (name, value) in attributes.iter() {
                    if let Some(header) = header(name, value) {
                        list.push(header);
                    }
                }
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

/// Sorts headers by name, and keeps the last of several with one name.
fn one_per_name(mut list: HeaderList) -> HeaderList {
    if !list.is_sorted_by(|a, b| a.name < b.name) {
        // The sort is stable, so the last of several with one name stays the last.
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

/// The groups, trimmed of ASCII white space, sorted, each once, without empty ones.
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
