//! The backend result: what a script says about a user, to be applied to a request.
//!
//! Plain data. Text is bytes, as Lua's strings and C's views are: nothing here needs UTF-8.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use smallvec::SmallVec;

use super::attribute_name::AttributeName;
use super::shared::Shared;
pub use super::text::{Bytes, Text};

/// One value: what a Lua script or a C host can put into an attribute.
#[derive(Debug, PartialEq)]
pub enum Scalar {
    Bytes(Text),
    Integer(i64),
    Float(f64),
    Bool(bool),
}

impl Clone for Scalar {
    /// Not derived: `SmallVec` copies byte by byte, which shows in the benchmark's row "access phase in nginx".
    fn clone(&self) -> Self {
        match self {
            Self::Bytes(text) => Self::Bytes(Text::from_slice(text)),
            Self::Integer(number) => Self::Integer(*number),
            Self::Float(number) => Self::Float(*number),
            Self::Bool(value) => Self::Bool(*value),
        }
    }
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

/// Name and value of an attribute.
pub type Pair = (AttributeName, AttributeValue);

/// Pairs in any order. Up to four need no heap memory.
pub type PairList = SmallVec<[Pair; 4]>;

/// A set of attributes, sorted by name (bytewise). Immutable: what one holder sees never changes
/// under it.
#[derive(Clone, Default)]
pub struct Attributes(Pairs);

/// Cloning is cheap: a single attribute is copied, several are shared.
#[derive(Clone, Default)]
enum Pairs {
    #[default]
    None,
    One(Pair),
    Many(Arc<[Pair]>),
}

impl Attributes {
    /// One attribute, a text.
    pub fn text(name: AttributeName, text: &[u8]) -> Self {
        let value = AttributeValue::One(Scalar::Bytes(Text::from_slice(text)));
        Self(Pairs::One((name, value)))
    }

    /// The attributes of a list. If a name is there twice, the later pair counts.
    pub fn from_pairs(pairs: impl IntoIterator<Item = Pair>) -> Self {
        Self::take_pairs(&mut pairs.into_iter().collect())
    }

    /// As [`Self::from_pairs`], but leaves the list empty with its capacity, for reuse.
    pub fn take_pairs(pairs: &mut PairList) -> Self {
        if pairs.len() > 1 {
            // Stable: among equal names the order given stays.
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        }
        if pairs.len() > 1 {
            return Self(Pairs::Many(pairs.drain(..).collect()));
        }
        Self(pairs.pop().map_or(Pairs::None, Pairs::One))
    }

    fn pairs(&self) -> &[Pair] {
        match &self.0 {
            Pairs::None => &[],
            Pairs::One(pair) => std::slice::from_ref(pair),
            Pairs::Many(pairs) => pairs,
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<&AttributeValue> {
        let pairs = self.pairs();
        let at = pairs.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        pairs.get(at).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// Name and value, sorted by name.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&AttributeName, &AttributeValue)> {
        self.pairs().iter().map(|(name, value)| (name, value))
    }

    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.pairs() == other.pairs()
    }
}

/// Names only: a value may be a secret.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.iter().map(|(name, _)| String::from_utf8_lossy(name));
        f.debug_set().entries(names).finish()
    }
}

/// What a script says about a user. Most results have attributes only, so the other fields
/// ([`Details`]) are allocated when one of them is set.
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
    /// An empty result.
    pub const fn new() -> Self {
        Self {
            authenticated: false,
            user_found: false,
            attributes: Attributes(Pairs::None),
            details: None,
        }
    }

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
pub type SharedResult = Shared<BackendResult>;

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
}
