//! A user's key: the part of the user's name that decides which node the user belongs on.

use std::borrow::Cow;

use crate::engine::config::{RoutingSettings, UserKey};

/// The longest name of a user, in bytes.
pub const KEY_MAX: usize = 1_024;

/// The key of a user. `None` where the name is empty or longer than [`KEY_MAX`] bytes, or where the
/// settings leave nothing of it. Only ASCII letters are lowercased: other rules depend on the
/// Unicode version, and machines with different versions would choose different nodes.
pub fn user_key<'u>(user: &'u [u8], settings: &RoutingSettings) -> Option<Cow<'u, [u8]>> {
    if user.is_empty() || user.len() > KEY_MAX {
        return None;
    }
    let user = match &settings.master_separator {
        Some(separator) => before(user, separator.as_bytes()),
        None => user,
    };
    let at = user.iter().rposition(|&byte| byte == b'@');
    let (local, domain) = user.split_at(at.unwrap_or(user.len()));
    let account = match &settings.detail_separator {
        Some(separator) => before(local, separator.as_bytes()),
        None => local,
    };
    let key = match settings.user_key {
        UserKey::Local => Cow::Borrowed(account),
        UserKey::Domain => Cow::Borrowed(domain.get(1..).unwrap_or_default()),
        UserKey::Lower | UserKey::Exact if account.len() == local.len() => Cow::Borrowed(user),
        UserKey::Lower | UserKey::Exact => Cow::Owned([account, domain].concat()),
    };
    let key = match settings.user_key {
        UserKey::Exact => key,
        _ if key.iter().any(u8::is_ascii_uppercase) => Cow::Owned(key.to_ascii_lowercase()),
        _ => key,
    };
    (!key.is_empty()).then_some(key)
}

/// The part of `text` before the first `separator`, which is not empty.
fn before<'t>(text: &'t [u8], separator: &[u8]) -> &'t [u8] {
    let found = text
        .windows(separator.len().max(1))
        .position(|window| window == separator);
    text.get(..found.unwrap_or(text.len())).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: &str, user_key: UserKey, master: &str, detail: &str) -> Option<String> {
        let separator = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let settings = RoutingSettings {
            user_key,
            master_separator: separator(master),
            detail_separator: separator(detail),
            ..RoutingSettings::default()
        };
        super::user_key(user.as_bytes(), &settings)
            .map(|key| String::from_utf8_lossy(&key).into_owned())
    }

    #[test]
    fn a_key_is_what_the_settings_leave_of_a_name() {
        use UserKey::{Domain, Exact, Local, Lower};
        for (user, kind, master, detail, expected) in [
            (
                "Alice@Example.ORG",
                Lower,
                "",
                "",
                Some("alice@example.org"),
            ),
            (
                "Alice@Example.ORG",
                Exact,
                "",
                "",
                Some("Alice@Example.ORG"),
            ),
            ("Alice@Example.ORG", Local, "", "", Some("alice")),
            ("Alice@Example.ORG", Domain, "", "", Some("example.org")),
            ("alice", Domain, "", "", None),
            ("alice", Local, "", "", Some("alice")),
            ("a@b@c", Local, "", "", Some("a@b")),
            ("a@b@c", Domain, "", "", Some("c")),
            ("alice*admin", Lower, "*", "", Some("alice")),
            (
                "alice@x.example*admin",
                Lower,
                "*",
                "+",
                Some("alice@x.example"),
            ),
            (
                "alice+box@x.example",
                Lower,
                "",
                "+",
                Some("alice@x.example"),
            ),
            (
                "alice+box@x.example",
                Exact,
                "",
                "+",
                Some("alice@x.example"),
            ),
            ("alice+box", Local, "", "+", Some("alice")),
            (
                "alice+a+b@x.example*m",
                Lower,
                "*",
                "+",
                Some("alice@x.example"),
            ),
            ("alice--box@x", Lower, "", "--", Some("alice@x")),
            // A separator in the domain is part of it.
            ("alice@x+y", Lower, "", "+", Some("alice@x+y")),
            ("*admin", Lower, "*", "", None),
            ("@x.example", Local, "", "", None),
            ("\u{c4}b@x", Lower, "", "", Some("\u{c4}b@x")),
        ] {
            let got = key(user, kind, master, detail);
            assert_eq!(
                got.as_deref(),
                expected,
                "{user} {kind:?} {master} {detail}"
            );
        }
    }

    #[test]
    fn a_name_has_a_bound() {
        assert_eq!(key("", UserKey::Lower, "", ""), None);
        let longest = "a".repeat(KEY_MAX);
        assert_eq!(key(&longest, UserKey::Lower, "", ""), Some(longest.clone()));
        assert_eq!(key(&format!("{longest}a"), UserKey::Lower, "", ""), None);
    }
}
