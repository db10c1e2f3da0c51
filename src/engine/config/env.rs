//! `${NAME}` in a YAML value: replaced from the environment, so that a file need not hold
//! secrets. `$${` writes a literal `${`; a `$` before anything else stands for itself.

use std::ffi::OsString;

use zeroize::Zeroizing;

/// Replaces each `${NAME}` of `text`; `None` when there is nothing to replace or unescape.
///
/// # Errors
/// A sentence for a variable that is not set or not UTF-8, for a `${` that no name and `}` follow, and when
/// the result is longer than `limit` bytes.
/// Neither repeats the text, which may be part of a secret.
pub(super) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<OsString>,
    limit: usize,
) -> Result<Option<Expanded>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = Expanded::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let after = from.get(2..).unwrap_or_default();
        if let Some(unescaped) = before.strip_suffix('$') {
            out.text.push_str(unescaped);
            out.text.push_str("${");
            rest = after;
            continue;
        }
        out.text.push_str(before);
        let name = after
            .split_once('}')
            .filter(|(name, _)| is_name(name))
            .ok_or("${NAME} expected, of letters, digits and _; $${ writes a literal ${")?;
        let (name, after) = name;
        let value = env(name).ok_or_else(|| format!("environment variable {name} is not set"))?;
        let value = Zeroizing::new(value.into_encoded_bytes());
        let value = std::str::from_utf8(&value)
            .map_err(|_| format!("environment variable {name} is not UTF-8"))?;
        if out.text.len().saturating_add(value.len()) > limit {
            return Err(format!(
                "at most {limit} more bytes expected from the environment"
            ));
        }
        out.text.push_str(value);
        out.replaced = true;
        rest = after;
    }
    out.text.push_str(rest);
    Ok(Some(out))
}

/// A text after replacement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// Whether anything came from the environment.
    pub(super) replaced: bool,
}

/// A portable variable name (POSIX.1 §8.1), and short enough to repeat in an error.
fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn env(name: &str) -> Option<OsString> {
        match name {
            "A" => Some("a".into()),
            "_b1" => Some("${A}".into()),
            "EMPTY" => Some(OsString::new()),
            "LATIN_1" => Some(OsString::from_vec(b"caf\xe9".to_vec())),
            _ => None,
        }
    }

    #[test]
    fn names_are_replaced_once() {
        for (text, expected, replaced) in [
            ("${A}", "a", true),
            ("x${A}y${A}${A}", "xayaa", true),
            ("${_b1}", "${A}", true),
            ("${EMPTY}", "", true),
            ("$${A}", "${A}", false),
            ("$$${A}", "$${A}", false),
            ("$${${A}}", "${a}", true),
            ("$${", "${", false),
            ("ü${A}ü", "üaü", true),
        ] {
            let expanded = Expanded {
                text: expected.into(),
                replaced,
            };
            assert_eq!(expand(text, &env, 100), Ok(Some(expanded)), "{text}");
        }
        for text in ["", "$", "$A", "$$", "{A}", "$ {A}"] {
            assert_eq!(expand(text, &env, 100), Ok(None), "{text}");
        }
    }

    #[test]
    fn the_result_is_bounded() {
        assert!(expand("${A}${A}", &env, 2).is_ok());
        assert_eq!(
            expand("${A}${A}${A}", &env, 2),
            Err("at most 2 more bytes expected from the environment".into())
        );
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        assert_eq!(
            expand("x${UNSET_1}", &env, 100),
            Err("environment variable UNSET_1 is not set".into())
        );
        assert_eq!(
            expand("x${LATIN_1}", &env, 100),
            Err("environment variable LATIN_1 is not UTF-8".into())
        );
        let long = format!("${{{}}}", "A".repeat(129));
        for text in [
            "${", "${}", "${1A}", "${A", "${A-b}", "${A:-b}", "${ A}", "${ä}", &long,
        ] {
            assert_eq!(
                expand(text, &env, 100),
                Err("${NAME} expected, of letters, digits and _; $${ writes a literal ${".into()),
                "{text}"
            );
        }
    }
}
