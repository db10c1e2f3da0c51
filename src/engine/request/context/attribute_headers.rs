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
    state: State,
    /// None as long as no list was made, as in most requests. It counts as empty then, and as reported.
    lists: Option<Box<Lists>>,
}

/// The headers as they are, and as the host knows them.
#[derive(Debug, Default)]
struct Lists {
    /// As it was last made.
    list: HeaderList,
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
    /// They changed, from none to one, and the host heard of its header, which no policy changes.
    /// No list was made so far: it is to be made before they change again and before it is used.
    Unmade,
}

impl AttributeHeaders {
    /// The attributes changed.
    pub(super) fn outdate(&mut self) {
        self.state = State::Outdated;
    }

    /// Whether there were no attributes so far, for all that the host knows.
    pub(super) fn is_new(&self) -> bool {
        self.state == State::Current && self.lists.is_none()
    }

    /// Whether no list was made, and the attributes did not change since the host heard of them.
    pub(super) fn needs_no_list(&self) -> bool {
        self.state != State::Outdated && self.lists.is_none()
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
        self.state = State::Current;
        self.lists = Some(Box::new(Lists {
            list,
            version,
            before: None,
        }));
    }

    /// Whether the headers are those of the present attributes under the policy of this version. No
    /// policy matters where there are no attributes.
    pub(super) fn is_current(&self, has_attributes: bool, version: impl FnOnce() -> u64) -> bool {
        match self.state {
            State::Current => {
                let made = self.lists.as_ref().map(|lists| lists.version);
                !has_attributes || made == Some(version())
            }
            State::Outdated | State::Unmade => false,
        }
    }

    /// Sets the list, made under the policy of this version.
    pub(super) fn set(&mut self, list: HeaderList, version: u64) {
        let lists = self.lists.get_or_insert_default();
        let last = std::mem::replace(&mut lists.list, list);
        lists.before.get_or_insert(last);
        lists.version = version;
        self.state = State::Current;
    }

    /// The list as it was last made.
    pub(super) fn list(&self) -> &[Header] {
        self.lists.as_ref().map_or(&[], |lists| &lists.list)
    }

    /// What the host heard of.
    pub(super) fn reported(&self) -> &[Header] {
        match &self.lists {
            Some(lists) => lists.before.as_ref().unwrap_or(&lists.list),
            None => &[],
        }
    }

    /// Whether nothing was made since the host heard of the list.
    pub(super) fn is_reported(&self) -> bool {
        (self.lists.as_ref()).is_none_or(|lists| lists.before.is_none())
    }

    /// The host has heard of the list.
    pub(super) fn note_reported(&mut self) {
        if let Some(lists) = &mut self.lists {
            lists.before = None;
        }
    }

    /// Makes it a new one.
    pub(super) fn renew(&mut self) {
        let Self { state, lists } = self;
        *state = State::Current;
        *lists = None;
    }

    /// The host has heard of none.
    pub(super) fn report_anew(&mut self) {
        if let Some(lists) = &mut self.lists {
            lists.before = Some(HeaderList::new());
        }
    }

    /// No attributes any more; what the host heard of stays so.
    pub(super) fn clear(&mut self) {
        match &self.lists {
            Some(lists) => self.set(HeaderList::new(), lists.version),
            None => self.state = State::Current,
        }
    }
}
