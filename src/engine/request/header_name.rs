//! Names of attributes, and the names of the headers that they become.
//!
//! nginx turns `_` into `-` in header names, so it is done here, for all hosts.

/// The beginning of every header that is made from an attribute.
const ATTRIBUTE_PREFIX: &str = "X-Nauthilus-";
/// The longest attribute name, in bytes.
pub const LONGEST_NAME: usize = 256;

/// Whether `byte` may be in a header's name: `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `name` can be the name of an attribute that becomes a header.
pub fn is_name(name: &[u8]) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name.iter().copied().all(is_token_byte)
}

/// The header an attribute becomes: `hostip` gives `X-Nauthilus-Hostip`, `Proxy-Host` and
/// `proxy_host` both give `X-Nauthilus-Proxy-Host`.
pub fn name(attribute: &[u8]) -> Box<str> {
    let mut header = String::with_capacity(ATTRIBUTE_PREFIX.len() + attribute.len());
    header.push_str(ATTRIBUTE_PREFIX);
    let mut word_starts = true;
    for &byte in attribute {
        let byte = fold(byte);
        header.push(char::from(if word_starts {
            byte.to_ascii_uppercase()
        } else {
            byte
        }));
        word_starts = byte == b'-';
    }
    header.into_boxed_str()
}

/// A byte of an attribute's name as far as it matters for the header's name.
fn fold(byte: u8) -> u8 {
    if byte == b'_' {
        b'-'
    } else {
        byte.to_ascii_lowercase()
    }
}

/// Whether two attributes become the same header.
pub fn same_name(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| fold(a) == fold(b))
}
