//! Which attributes may become response headers, and the values of these headers. `header_name` has their
//! names.

use std::fmt;
use std::sync::Arc;

use super::attribute_name::AttributeName;
use super::header_name::{LONGEST_NAME, same_name};
use super::result::{AttributeValue, Scalar};
use super::text::{Bytes, Text};

/// The header that names the selected server's address.
pub const AUTH_SERVER: &str = "Auth-Server";
/// The header that names the selected server's port.
pub const AUTH_PORT: &str = "Auth-Port";
/// One response header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Canonical MIME case.
    pub name: Arc<str>,
    /// Never contains CR, LF or NUL.
    pub value: Text,
}

/// Why an attribute cannot become a header. The text names the attribute, never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAttribute {
    name: Bytes,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    NameLength,
    NameByte,
    ValueByte,
    NotFinite,
}

impl fmt::Display for RefusedAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.name.get(..64).unwrap_or(&self.name);
        let cut = if shown.len() < self.name.len() {
            "..."
        } else {
            ""
        };
        write!(f, "attribute \"{}{cut}\": ", shown.escape_ascii())?;
        match self.why {
            Why::NameLength => write!(
                f,
                "a name of 1..{LONGEST_NAME} bytes expected, got {}",
                self.name.len()
            ),
            Why::NameByte => {
                f.write_str("the name may only contain letters, digits and any of !#$%&'*+-.^_`|~")
            }
            Why::ValueByte => f.write_str("the value must not contain CR, LF or NUL"),
            Why::NotFinite => f.write_str("a finite number expected"),
        }
    }
}

/// Checks that an attribute can become a header.
///
/// # Errors
///
/// Where the name is not 1..=256 token characters, a text of the value has CR, LF or NUL, or a
/// number of it is not finite.
pub fn check(name: &AttributeName, value: &AttributeValue) -> Result<(), RefusedAttribute> {
    match why_refused(name, value) {
        None => Ok(()),
        Some(why) => Err(RefusedAttribute::new(name, why)),
    }
}

fn why_refused(name: &AttributeName, value: &AttributeValue) -> Option<Why> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Some(Why::NameLength);
    }
    if name.header().is_none() {
        return Some(Why::NameByte);
    }
    value.scalars().iter().find_map(|scalar| match scalar {
        Scalar::Bytes(text) if breaks_line(text) => Some(Why::ValueByte),
        Scalar::Float(number) if !number.is_finite() => Some(Why::NotFinite),
        _ => None,
    })
}

impl RefusedAttribute {
    #[cold]
    fn new(name: &[u8], why: Why) -> Self {
        Self {
            name: name.into(),
            why,
        }
    }
}

/// Whether the text has a byte that may not be in a header's value (RFC 9110 §5.5).
fn breaks_line(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// The header's value: an array's parts are joined with `,`, those of `dn` with `;` (a
/// distinguished name is full of commas).
pub fn value(attribute: &[u8], value: &AttributeValue) -> Text {
    match value {
        AttributeValue::One(Scalar::Bytes(text)) => Text::from_slice(text),
        AttributeValue::One(scalar) => {
            let mut text = Text::new();
            append(&mut text, scalar);
            text
        }
        AttributeValue::Many(scalars) => {
            let separator = if same_name(attribute, b"dn") {
                b';'
            } else {
                b','
            };
            let mut text = Text::new();
            for (i, scalar) in scalars.iter().enumerate() {
                if i > 0 {
                    text.push(separator);
                }
                append(&mut text, scalar);
            }
            text
        }
    }
}

fn append(text: &mut Text, scalar: &Scalar) {
    match scalar {
        Scalar::Bytes(bytes) => text.extend_from_slice(bytes),
        Scalar::Bool(true) => text.extend_from_slice(b"true"),
        Scalar::Bool(false) => text.extend_from_slice(b"false"),
        Scalar::Integer(number) => text.extend_from_slice(number.to_string().as_bytes()),
        // `+ 0.0` makes a negative zero positive. Rust prints the shortest digits that read
        // back as the same number, without exponent and without ".0".
        Scalar::Float(number) => text.extend_from_slice((number + 0.0).to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::header_name::name;
    use super::*;
    use proptest::prelude::*;

    fn text(s: &[u8]) -> AttributeValue {
        AttributeValue::One(Scalar::Bytes(s.into()))
    }

    fn rendered(attribute: &str, v: AttributeValue) -> String {
        String::from_utf8(value(attribute.as_bytes(), &v).to_vec()).unwrap()
    }

    #[test]
    fn header_names_have_canonical_case() {
        for (attribute, header) in [
            ("hostip", "X-Nauthilus-Hostip"),
            ("Proxy-Host", "X-Nauthilus-Proxy-Host"),
            ("hostIP", "X-Nauthilus-Hostip"),
            ("user_name", "X-Nauthilus-User-Name"),
            ("--a", "X-Nauthilus---A"),
            ("2fa-X", "X-Nauthilus-2fa-X"),
        ] {
            assert_eq!(&*name(attribute.as_bytes()), header);
        }
    }

    #[test]
    fn numbers_render_without_exponent_or_needless_fraction() {
        for (number, shown) in [
            (1e7, "10000000"),
            (993.0, "993"),
            (0.1, "0.1"),
            (-0.0, "0"),
            (1e21, "1000000000000000000000"),
            (2f64.powi(53), "9007199254740992"),
            (1.0 / 3.0, "0.3333333333333333"),
        ] {
            assert_eq!(
                rendered("n", AttributeValue::One(Scalar::Float(number))),
                shown
            );
        }
        assert_eq!(
            rendered("n", AttributeValue::One(Scalar::Integer(i64::MIN))),
            i64::MIN.to_string()
        );
    }

    #[test]
    fn arrays_are_joined() {
        let parts = || {
            AttributeValue::Many(vec![
                Scalar::Bytes(b"a"[..].into()),
                Scalar::Integer(1),
                Scalar::Bool(true),
                Scalar::Bool(false),
                Scalar::Float(1.5),
            ])
        };
        assert_eq!(rendered("x", parts()), "a,1,true,false,1.5");
        assert_eq!(rendered("dn", parts()), "a;1;true;false;1.5");
        assert_eq!(rendered("x", AttributeValue::Many(vec![])), "");
    }

    #[test]
    fn what_could_start_a_second_header_is_refused() {
        for bad in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\n"] {
            assert!(check(&b"x"[..].into(), &text(bad)).is_err());
            let nested = AttributeValue::Many(vec![Scalar::Integer(1), Scalar::Bytes(bad.into())]);
            assert!(check(&b"x"[..].into(), &nested).is_err());
            assert!(check(&bad.into(), &text(b"")).is_err());
        }
        for bad in [
            &b""[..],
            b"a b",
            b"a:b",
            b"\xc3\xa4",
            &[b'a'; LONGEST_NAME + 1],
        ] {
            assert!(check(&bad.into(), &text(b"")).is_err());
        }
        assert_eq!(
            check(&[b'a'; LONGEST_NAME][..].into(), &text(b"\xff\t ok")),
            Ok(())
        );
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(check(&b"x"[..].into(), &AttributeValue::One(Scalar::Float(bad))).is_err());
        }
    }

    #[test]
    fn a_refusal_names_the_attribute_and_not_the_value() {
        let refused = check(&b"mail"[..].into(), &text(b"hunter2\n"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            "attribute \"mail\": the value must not contain CR, LF or NUL"
        );
        let long = check(&[b'\n'; 1000][..].into(), &text(b""))
            .unwrap_err()
            .to_string();
        assert!(long.len() < 300 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn a_byte_that_breaks_a_line_is_found_wherever_it_is() {
        for length in 0..=24 {
            for fill in [b'a', b'\t', 0x0e, 0x7f, 0x80, 0xff] {
                let mut bytes = vec![fill; length];
                assert!(!breaks_line(&bytes), "{bytes:?}");
                for at in 0..length {
                    for byte in 0..=u8::MAX {
                        bytes[at] = byte;
                        assert_eq!(
                            breaks_line(&bytes),
                            matches!(byte, 0 | b'\r' | b'\n'),
                            "{bytes:?}"
                        );
                    }
                    bytes[at] = fill;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_checked_attribute_gives_a_single_header_line(
            attribute in prop::collection::vec(any::<u8>(), 0..40),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            number in any::<f64>(),
        ) {
            let v = AttributeValue::Many(vec![Scalar::Bytes(bytes.into()), Scalar::Float(number)]);
            if check(&attribute[..].into(), &v).is_ok() {
                let line = [name(&attribute).as_bytes(), b": ", &value(&attribute, &v)].concat();
                prop_assert!(!line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
        }

        #[test]
        fn a_float_reads_back_as_the_same_number(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            let shown = rendered("n", AttributeValue::One(Scalar::Float(number)));
            prop_assert_eq!(shown.parse::<f64>().unwrap(), number);
            prop_assert!(!shown.contains('e'));
        }

        #[test]
        fn equal_header_names_are_what_same_name_says(a in "[a-zA-Z_-]{1,3}", b in "[a-zA-Z_-]{1,3}") {
            prop_assert_eq!(
                same_name(a.as_bytes(), b.as_bytes()),
                name(a.as_bytes()) == name(b.as_bytes())
            );
        }
    }
}
