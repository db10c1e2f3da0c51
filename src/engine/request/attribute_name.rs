//! The name of an attribute, with the header that it becomes and whether it means a secret. Both are
//! worked out from the name once.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::header_name;
use super::name_cache::NameCache;
use super::secret_names;
use super::text::Bytes;

/// The name of an attribute: any bytes. A clone shares the text. Names are compared by their bytes alone.
#[derive(Clone)]
pub struct AttributeName(Arc<Known>);

struct Known {
    bytes: Bytes,
    header: Option<Arc<str>>,
    means_secret: bool,
}

thread_local! {
    /// Scripts use few names, and the same ones for each request: each is analysed once.
    static CACHE: RefCell<NameCache<AttributeName>> = const { RefCell::new(NameCache::new()) };
}

impl AttributeName {
    pub fn new(bytes: &[u8]) -> Self {
        let make = || {
            Self(Arc::new(Known {
                bytes: bytes.into(),
                header: header_name::is_name(bytes).then(|| header_name::name(bytes).into()),
                means_secret: secret_names::means_secret(bytes),
            }))
        };
        // `try_with`: a Lua finaliser may run while the thread ends, after its cache was destroyed.
        CACHE
            .try_with(|cache| Some(cache.try_borrow_mut().ok()?.get_or_make(bytes, make)))
            .ok()
            .flatten()
            .unwrap_or_else(make)
    }

    /// The header it becomes; none where it cannot be a header's name.
    pub fn header(&self) -> Option<&Arc<str>> {
        self.0.header.as_ref()
    }

    /// See [`secret_names::means_secret`].
    pub fn means_secret(&self) -> bool {
        self.0.means_secret
    }
}

impl Deref for AttributeName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Borrow<[u8]> for AttributeName {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for AttributeName {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl PartialEq for AttributeName {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for AttributeName {}

impl PartialOrd for AttributeName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AttributeName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.escape_ascii().to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_knows_its_header_and_whether_it_means_a_secret() {
        for _ in 0..2 {
            let name = AttributeName::new(b"proxy_host");
            assert_eq!(name.header().map(|h| &**h), Some("X-Nauthilus-Proxy-Host"));
            assert!(!name.means_secret());
            assert!(AttributeName::new(b"imapPassword").means_secret());
            assert_eq!(AttributeName::new(b"a b").header(), None);
        }
    }

    #[test]
    fn names_are_their_bytes() {
        let long = [b'a'; 300];
        for bytes in [&b"Uid"[..], b"uid", b"", b"\xff", &long] {
            assert_eq!(*AttributeName::new(bytes), *bytes);
        }
        assert_ne!(AttributeName::new(b"Uid"), AttributeName::new(b"uid"));
        assert!(AttributeName::new(b"Uid") < AttributeName::new(b"uid"));
    }
}
