//! The response headers of a context, and what became of them.

use std::sync::Arc;

use super::super::headers::{self, Header};
use super::Selection;

pub(super) fn find<'a>(list: &'a [Header], name: &str) -> Option<&'a Header> {
    let at = list
        .binary_search_by(|header| (*header.name).cmp(name))
        .ok()?;
    list.get(at)
}

/// The response headers of a context at one moment.
#[derive(Clone, Debug)]
pub struct Headers {
    pub(super) selection: Option<Selection>,
    pub(super) attributes: Arc<[Header]>,
}

impl Headers {
    /// Calls `each` with name and value of each header: `Auth-Server`, `Auth-Port`, then the
    /// others sorted by name. Does not allocate.
    pub fn for_each(&self, mut each: impl FnMut(&str, &[u8])) {
        if let Some(selection) = &self.selection {
            selection.for_each_header(&mut each);
        }
        for header in &*self.attributes {
            each(&header.name, &header.value);
        }
    }

    pub fn len(&self) -> usize {
        self.attributes.len() + if self.selection.is_some() { 2 } else { 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Selection {
    fn for_each_header(&self, each: &mut impl FnMut(&str, &[u8])) {
        each(headers::AUTH_SERVER, self.ip.as_bytes());
        let mut buffer = [0; 5];
        each(headers::AUTH_PORT, decimal(self.port, &mut buffer));
    }
}

/// `number` in digits, without an allocation.
fn decimal(mut number: u16, buffer: &mut [u8; 5]) -> &[u8] {
    let mut first = buffer.len();
    for (at, slot) in buffer.iter_mut().enumerate().rev() {
        // `number % 10` is below 10.
        *slot = b'0' + (number % 10) as u8;
        first = at;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    buffer.get(first..).unwrap_or_default()
}

/// What became of the response headers between two calls of [`RequestContext::take_changes`].
#[derive(Clone, Debug)]
pub struct Changes {
    /// The new selection where it changed; `Some(None)` where it vanished.
    pub(super) selection: Option<Option<Selection>>,
    pub(super) removed: Vec<Box<str>>,
    pub(super) before: Arc<[Header]>,
    pub(super) after: Arc<[Header]>,
}

impl Changes {
    fn has_same_attributes(&self) -> bool {
        Arc::ptr_eq(&self.before, &self.after) || (self.before.is_empty() && self.after.is_empty())
    }

    /// Calls `each` with the name of each header that changed and its value, `None` where it
    /// vanished. Does not allocate.
    pub fn for_each(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        match &self.selection {
            None => {}
            Some(None) => {
                each(headers::AUTH_SERVER, None);
                each(headers::AUTH_PORT, None);
            }
            Some(Some(selection)) => {
                selection.for_each_header(&mut |name, value| each(name, Some(value)));
            }
        }
        // A name removed that the list before had is reported with that list.
        for name in &self.removed {
            if find(&self.before, name).is_none() {
                each(name, None);
            }
        }
        if self.has_same_attributes() {
            return;
        }
        for header in &*self.before {
            if find(&self.after, &header.name).is_none() {
                each(&header.name, None);
            }
        }
        for header in &*self.after {
            if find(&self.before, &header.name) != Some(header) {
                each(&header.name, Some(&header.value));
            }
        }
    }
}
