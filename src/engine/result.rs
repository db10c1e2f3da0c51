//! The backend result: what a script says about a user, to be applied to a request.
//!
//! Plain data. Text is bytes, as Lua's strings and C's views are: nothing here needs UTF-8.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use super::attribute_name::AttributeName;

/// A string of bytes.
pub type Bytes = Box<[u8]>;

/// The text of a value: mostly so short that it needs no memory of its own.
pub type Text = SmallVec<[u8; 24]>;

/// One value: what a Lua script or a C host can put into an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Bytes(Text),
    Integer(i64),
    Float(f64),
    Bool(bool),
}

/// The value of an attribute: one scalar or an array of them.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    One(Scalar),
    Many(Vec<Scalar>),
}

impl AttributeValue {
    /// The scalars of the value, in order.
    pub fn scalars(&self) -> &[Scalar] {
        match self {
            Self::One(scalar) => std::slice::from_ref(scalar),
            Self::Many(scalars) => scalars,
        }
    }
}

/// A set of attributes, sorted by name (bytewise). Immutable and shared: a copy costs nothing,
/// and what one holder sees never changes under it.
#[derive(Clone, Default, PartialEq)]
pub struct Attributes(Arc<[(AttributeName, AttributeValue)]>);

impl Attributes {
    /// Of two pairs with one name the later counts.
    pub fn from_pairs(mut pairs: Vec<(AttributeName, AttributeValue)>) -> Self {
        Self::take_pairs(&mut pairs)
    }

    /// The same, and leaves the list empty, with the memory it has.
    pub fn take_pairs(pairs: &mut Vec<(AttributeName, AttributeValue)>) -> Self {
        // Stable: among equal names the order given stays.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self(pairs.drain(..).collect())
    }

    pub fn get(&self, name: &[u8]) -> Option<&AttributeValue> {
        let at = self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// Name and value, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&AttributeName, &AttributeValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names only: a value may be a secret.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.iter().map(|(name, _)| String::from_utf8_lossy(name));
        f.debug_set().entries(names).finish()
    }
}

/// What a script says about a user. Most say no more than attributes: the other fields
/// ([`Details`]) have memory of their own once one is set.
#[derive(Clone, Default)]
pub struct BackendResult {
    pub authenticated: bool,
    pub user_found: bool,
    pub attributes: Attributes,
    pub(crate) details: Option<Box<Details>>,
}

/// The fields of a [`BackendResult`] that are seldom set.
#[derive(Clone, Default, PartialEq)]
pub struct Details {
    /// Name of the attribute that holds the account.
    pub account_field: Option<Bytes>,
    /// Name of the attribute that holds the TOTP secret; it never becomes a header.
    pub totp_secret_field: Option<Bytes>,
    /// Name of the attribute that holds the TOTP recovery codes; it never becomes a header.
    pub totp_recovery_field: Option<Bytes>,
    pub unique_user_id_field: Option<Bytes>,
    pub display_name_field: Option<Bytes>,
    pub groups: Vec<Bytes>,
    pub group_dns: Vec<Bytes>,
    /// Never become headers.
    pub webauthn_credentials: Vec<Bytes>,
}

impl Deref for BackendResult {
    type Target = Details;

    fn deref(&self) -> &Details {
        static NONE: Details = Details {
            account_field: None,
            totp_secret_field: None,
            totp_recovery_field: None,
            unique_user_id_field: None,
            display_name_field: None,
            groups: Vec::new(),
            group_dns: Vec::new(),
            webauthn_credentials: Vec::new(),
        };
        self.details.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for BackendResult {
    fn deref_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }
}

impl PartialEq for BackendResult {
    fn eq(&self, other: &Self) -> bool {
        self.authenticated == other.authenticated
            && self.user_found == other.user_found
            && self.attributes == other.attributes
            && **self == **other
    }
}

impl BackendResult {
    /// The names of attributes that hold secrets, as this result's own fields say.
    pub fn secret_fields(&self) -> impl Iterator<Item = &Bytes> {
        self.totp_secret_field
            .iter()
            .chain(&self.totp_recovery_field)
    }
}

/// No values: they may be secrets.
impl fmt::Debug for BackendResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendResult")
            .field("authenticated", &self.authenticated)
            .field("user_found", &self.user_found)
            .field("attributes", &self.attributes)
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

/// A result with several holders: a userdata of Lua and a handle of C see the same data.
///
/// Each result has its own lock, held for the length of one read or change and never across a
/// call out.
#[derive(Clone, Debug, Default)]
pub struct SharedResult(Arc<Mutex<BackendResult>>);

impl SharedResult {
    pub fn new(result: BackendResult) -> Self {
        Self(Arc::new(Mutex::new(result)))
    }

    /// Runs `read` under the lock. It must not call out.
    pub fn read<T>(&self, read: impl FnOnce(&BackendResult) -> T) -> T {
        // A poisoned lock guards plain data of which each change is one assignment.
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `change` under the lock. It must not call out.
    pub fn change<T>(&self, change: impl FnOnce(&mut BackendResult) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A copy as of now.
    pub fn snapshot(&self) -> BackendResult {
        self.read(Clone::clone)
    }

    /// Whether both are handles of one result.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> AttributeValue {
        AttributeValue::One(Scalar::Bytes(s.as_bytes().into()))
    }

    #[test]
    fn attributes_are_sorted_and_the_later_of_two_counts() {
        let attributes = Attributes::from_pairs(vec![
            (b"b"[..].into(), text("1")),
            (b"a"[..].into(), text("2")),
            (b"b"[..].into(), text("3")),
            (b"B"[..].into(), text("4")),
        ]);
        let names: Vec<&[u8]> = attributes.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [&b"B"[..], b"a", b"b"]);
        assert_eq!(attributes.get(b"b"), Some(&text("3")));
        assert_eq!(attributes.get(b"c"), None);
    }

    #[test]
    fn names_and_values_need_no_utf8() {
        let attributes = Attributes::from_pairs(vec![(
            b"\xff"[..].into(),
            AttributeValue::One(Scalar::Bytes(b"\xfe\x80"[..].into())),
        )]);
        assert_eq!(
            attributes.get(b"\xff").unwrap().scalars(),
            [Scalar::Bytes(b"\xfe\x80"[..].into())]
        );
    }

    #[test]
    fn debug_shows_no_value() {
        let mut result = BackendResult {
            attributes: Attributes::from_pairs(vec![(b"userPassword"[..].into(), text("hunter2"))]),
            ..Default::default()
        };
        result.webauthn_credentials = vec![b"hunter2"[..].into()];
        assert!(!format!("{result:?}").contains("hunter2"));
    }

    #[test]
    fn holders_of_a_shared_result_see_the_same_data() {
        let one = SharedResult::default();
        let other = one.clone();
        std::thread::spawn(move || other.change(|r| r.authenticated = true))
            .join()
            .unwrap();
        assert!(one.read(|r| r.authenticated));
        assert!(!one.is_same(&SharedResult::new(one.snapshot())));
    }
}
