//! The response headers of a context, and what became of them.

use super::super::attribute_name::AttributeName;
use super::super::headers::{self, Header};
use super::super::result::Text;
use super::Selection;
use super::attribute_headers::{HeaderList, find};

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

    /// The same, to outlive the context.
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

/// What became of the response headers since the host last heard of them.
#[derive(Debug)]
pub struct Changes<'a> {
    /// The new selection where it changed; `Some(None)` where it vanished.
    pub(super) selection: Option<Option<&'a Selection>>,
    /// The names removed since, of attributes.
    pub(super) removed: &'a [AttributeName],
    /// The headers of attributes where they may have changed, before and after.
    pub(super) attributes: Option<(&'a [Header], &'a [Header])>,
    /// The headers of attributes, whether they changed or not.
    pub(super) after: &'a [Header],
}

impl Changes<'_> {
    /// Calls `each` with the name of each header that changed and its value, `None` where it
    /// vanished. Does not allocate.
    pub fn for_each(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        match self.selection {
            None => {}
            Some(None) => {
                each(headers::AUTH_SERVER, None);
                each(headers::AUTH_PORT, None);
            }
            Some(Some(selection)) => {
                selection.for_each_header(&mut |name, value| each(name, Some(value)));
            }
        }
        if !self.removed.is_empty() {
            self.for_each_removed(&mut each);
        }
        match self.attributes {
            None => {}
            // As in nearly all requests.
            Some(([], after)) => {
                for header in after {
                    each(&header.name, Some(&header.value));
                }
            }
            Some((before, after)) => for_each_difference(before, after, &mut each),
        }
    }

    #[cold]
    fn for_each_removed(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        let (before, after) = self.attributes.unwrap_or((self.after, self.after));
        for name in self.removed.iter().filter_map(AttributeName::header) {
            // One that the list before had is reported with that list.
            if find(after, name).is_none() && find(before, name).is_none() {
                each(name, None);
            }
        }
    }

    /// The same as a list of its own.
    pub(super) fn list(&self) -> ChangeList {
        let mut list = Vec::new();
        self.for_each(|name, value| list.push((name.into(), value.map(Text::from_slice))));
        ChangeList(list)
    }
}

#[cold]
fn for_each_difference(
    before: &[Header],
    after: &[Header],
    each: &mut dyn FnMut(&str, Option<&[u8]>),
) {
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

/// [`Changes`] that outlive the context.
#[derive(Debug)]
pub struct ChangeList(Vec<(Box<str>, Option<Text>)>);

impl ChangeList {
    /// As [`Changes::for_each`]. Does not allocate.
    pub fn for_each(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        for (name, value) in &self.0 {
            each(name, value.as_deref());
        }
    }
}
