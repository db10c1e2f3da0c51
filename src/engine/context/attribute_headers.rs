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
    state: State,
    /// The version of the policy (`expose_attributes`) it was made under.
    version: u64,
    /// What the host heard of, unless that is `list`.
    before: Option<HeaderList>,
}

/// How the list stands to the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Current,
    /// They changed since it was made.
    Outdated,
    /// They changed, from none to one, and the host heard of its header, which no policy changes. The
    /// list is to be made before they change again, or somebody asks for it.
    Unmade,
}

impl AttributeHeaders {
    /// The attributes changed.
    pub(super) fn outdate(&mut self) {
        self.state = State::Outdated;
    }

    /// Whether the attributes changed, and there were no headers before.
    pub(super) fn is_first(&self) -> bool {
        self.state == State::Outdated && self.list.is_empty() && self.before.is_none()
    }

    /// The host has heard of the header of the only attribute there is.
    pub(super) fn note_first_reported(&mut self) {
        self.state = State::Unmade;
    }

    pub(super) fn is_unmade(&self) -> bool {
        self.state == State::Unmade
    }

    /// Sets the list that was not made so far; it is the same under any policy.
    pub(super) fn set_up(&mut self, list: HeaderList, version: u64) {
        self.list = list;
        self.state = State::Current;
        self.version = version;
    }

    /// Whether the headers are those of the present attributes under the policy of this version. No
    /// policy matters where there are no attributes.
    pub(super) fn is_current(&self, has_attributes: bool, version: impl FnOnce() -> u64) -> bool {
        match self.state {
            State::Current => !has_attributes || self.version == version(),
            State::Outdated => false,
            State::Unmade => true,
        }
    }

    /// Sets the list, made under the policy of this version.
    pub(super) fn set(&mut self, list: HeaderList, version: u64) {
        let last = std::mem::replace(&mut self.list, list);
        self.before.get_or_insert(last);
        self.state = State::Current;
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
            state,
            version,
            before,
        } = self;
        list.clear();
        list.shrink_to_fit();
        *state = State::Current;
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
