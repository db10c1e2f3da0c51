//! The response headers of a context, and how they differ from those that were reported to the host.

use smallvec::SmallVec;

use super::super::attribute_name::AttributeName;
use super::super::headers::{self, Header};
use super::super::result::Text;
use super::selection::Selection;

/// Headers of attributes, sorted by name. Most requests have one, which needs no memory of its own.
pub(super) type HeaderList = SmallVec<[Header; 1]>;

/// Finds a header in a sorted list.
fn find<'a>(list: &'a [Header], name: &str) -> Option<&'a Header> {
    let at = list
        .binary_search_by(|header| (*header.name).cmp(name))
        .ok()?;
    list.get(at)
}

/// The response headers of a context.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    pub(super) selection: Option<&'a Selection>,
    pub(super) attributes: &'a [Header],
}

impl Headers<'_> {
    /// Calls `each` with name and value of each header: `Auth-Server`, `Auth-Port`, then the
    /// others sorted by name. Does not allocate.
    pub fn for_each(&self, mut each: impl FnMut(&str, &[u8])) {
        if let Some(selection) = self.selection {
            selection.for_each_header(&mut each);
        }
        for header in self.attributes {
            each(&header.name, &header.value);
        }
    }

    pub fn len(&self) -> usize {
        self.attributes.len() + if self.selection.is_some() { 2 } else { 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the headers, which may outlive the context.
    pub fn copy(&self) -> HeadersCopy {
        HeadersCopy {
            selection: self.selection.cloned(),
            attributes: self.attributes.iter().cloned().collect(),
        }
    }
}

/// The response headers that a context had at one moment.
#[derive(Debug)]
pub struct HeadersCopy {
    selection: Option<Selection>,
    attributes: HeaderList,
}

impl HeadersCopy {
    pub fn headers(&self) -> Headers<'_> {
        Headers {
            selection: self.selection.as_ref(),
            attributes: &self.attributes,
        }
    }
}

impl Selection {
    pub(super) fn for_each_header(&self, each: &mut impl FnMut(&str, &[u8])) {
        each(headers::AUTH_SERVER, &self.ip);
        let mut digits = itoa::Buffer::new();
        each(headers::AUTH_PORT, digits.format(self.port).as_bytes());
    }
}

/// The changes of the response headers since they were last reported to the host.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) before: Headers<'a>,
    pub(super) after: Headers<'a>,
    /// The names of attributes that were removed since then.
    pub(super) removed: &'a [AttributeName],
}

impl Changes<'_> {
    /// Calls `each` with the name of each header that changed and its value, `None` if it
    /// vanished. Does not allocate.
    pub(super) fn for_each(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        let (before, after) = (self.before.attributes, self.after.attributes);
        if self.before.selection != self.after.selection {
            match self.after.selection {
                Some(selection) => {
                    selection.for_each_header(&mut |name, value| each(name, Some(value)));
                }
                None => {
                    each(headers::AUTH_SERVER, None);
                    each(headers::AUTH_PORT, None);
                }
            }
        }
        for name in self.removed.iter().filter_map(AttributeName::header) {
            // A header that was reported before is cleared below.
            if find(after, name).is_none() && find(before, name).is_none() {
                each(name, None);
            }
        }
        for header in before {
            if find(after, &header.name).is_none() {
                each(&header.name, None);
            }
        }
        for header in after {
            if find(before, &header.name) != Some(header) {
                each(&header.name, Some(&header.value));
            }
        }
    }

    /// The changes as a list that may outlive the context.
    pub(super) fn list(&self) -> ChangeList {
        let mut list = Vec::new();
        self.for_each(|name, value| list.push((name.into(), value.map(Text::from_slice))));
        ChangeList(list)
    }
}

/// Changes of the response headers that outlive the context.
#[derive(Debug)]
pub struct ChangeList(Vec<(Box<str>, Option<Text>)>);

impl ChangeList {
    /// Calls `each` with the name of each header that changed and its value, `None` if it vanished.
    pub fn for_each(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        for (name, value) in &self.0 {
            each(name, value.as_deref());
        }
    }
}
