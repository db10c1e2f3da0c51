//! The headers of a context's attributes: as they are, and as the host last heard of them.

use smallvec::SmallVec;

use super::super::headers::Header;

/// Sorted by name. Mostly there are one or two, which need no memory of their own.
pub(super) type HeaderList = SmallVec<[Header; 2]>;

/// Finds a header in a sorted list.
pub(super) fn find<'a>(list: &'a [Header], name: &str) -> Option<&'a Header> {
    let at = list
        .binary_search_by(|header| (*header.name).cmp(name))
        .ok()?;
    list.get(at)
}

/// See the module's documentation. A new context has no headers, and its host knows of none.
#[derive(Debug, Default)]
pub(super) struct AttributeHeaders {
    list: HeaderList,
    /// Whether the attributes changed since the list was made.
    is_outdated: bool,
    /// The version of the policy (`expose_attributes`) it was made under.
    version: u64,
    /// What the host heard of, unless that is `list`.
    before: Option<HeaderList>,
}

impl AttributeHeaders {
    /// The attributes changed.
    pub(super) fn outdate(&mut self) {
        self.is_outdated = true;
    }

    /// Whether the list is of the present attributes under the policy of this version. No policy
    /// matters where there are no attributes.
    pub(super) fn is_current(&self, has_attributes: bool, version: impl FnOnce() -> u64) -> bool {
        !self.is_outdated && (!has_attributes || self.version == version())
    }

    /// Sets the list, made under the policy of this version.
    pub(super) fn set(&mut self, list: HeaderList, version: u64) {
        let last = std::mem::replace(&mut self.list, list);
        self.before.get_or_insert(last);
        self.is_outdated = false;
        self.version = version;
    }

    /// The same where there is one header, and there was none.
    pub(super) fn set_first(&mut self, header: Option<Header>, version: u64) {
        self.before.get_or_insert_default();
        self.list.extend(header);
        self.is_outdated = false;
        self.version = version;
    }

    /// The list as it was last made.
    pub(super) fn list(&self) -> &[Header] {
        &self.list
    }

    /// What the host heard of.
    pub(super) fn reported(&self) -> &[Header] {
        self.before.as_ref().unwrap_or(&self.list)
    }

    /// Whether nothing was made since the host heard of the list.
    pub(super) fn is_reported(&self) -> bool {
        self.before.is_none()
    }

    /// The host has heard of the list.
    pub(super) fn note_reported(&mut self) {
        self.before = None;
    }

    /// Makes it a new one.
    pub(super) fn renew(&mut self) {
        let Self {
            list,
            is_outdated,
            version,
            before,
        } = self;
        list.clear();
        list.shrink_to_fit();
        *is_outdated = false;
        *version = 0;
        *before = None;
    }

    /// The host has heard of none.
    pub(super) fn report_anew(&mut self) {
        self.before = Some(HeaderList::new());
    }

    /// No attributes any more; what the host heard of stays so.
    pub(super) fn clear(&mut self) {
        self.set(HeaderList::new(), self.version);
    }
}
