//! Attribute names that mean a secret: such an attribute never becomes a header, unless the
//! configuration's `expose_attributes` names it.
//!
//! A name is cut into words at everything that is not a letter, and where camelCase starts a
//! new word (`imapPassword`, `APIKey`, `recovery-codes`, `oauth2_token`). It means a secret when
//!
//! 1. a word of it, with or without a plural `s`, is in [`WORDS`], or
//! 2. two neighbouring words are in [`PAIRS`], or
//! 3. its letters, taken together in any case, contain one of [`STEMS`] (`imappassword`,
//!    `pass-word`, `APIKEY`), or
//! 4. a run of its letters ends in one of [`ENDINGS`], in any case (`accesstoken`, `userpwd`).
//!
//! A name withheld wrongly costs a line of configuration, a secret sent wrongly cannot be taken
//! back: so names *about* a secret (`passwordExpires`, `tokenType`) are withheld too. Words
//! that only look alike (`passport`, `tokenizer`, `keyboard`, `secretary`, `compass`) are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::header_name::{LONGEST_NAME, same_name};
use super::text::Bytes;

/// Words that mean a secret by themselves.
pub const WORDS: &[&str] = &[
    "bearer", "cred", "jwt", "lmhash", "nthash", "otp", "pass", "passcode", "pin", "psk", "pw",
    "pwd", "secret", "token",
];

/// Words that mean a secret next to each other.
pub const PAIRS: &[(&str, &str)] = &[
    ("auth", "code"),
    ("auth", "key"),
    ("lm", "hash"),
    ("nt", "hash"),
    ("principal", "key"),
    ("scratch", "code"),
    ("security", "answer"),
    ("totp", "code"),
    ("totp", "key"),
    ("totp", "recovery"),
    ("totp", "seed"),
    ("verification", "code"),
];

/// Letters that mean a secret wherever they are.
pub const STEMS: &[&str] = &[
    "accesskey",
    "apikey",
    "backupcode",
    "credential",
    "encryptionkey",
    "masterkey",
    "passphrase",
    "passwd",
    "password",
    "passwort",
    "pkcs12",
    "presharedkey",
    "privatekey",
    "privkey",
    "recoverycode",
    "recoverykey",
    "secret",
    "seedphrase",
    "sessionkey",
    "sharedkey",
    "signingkey",
];

/// Ends of words that mean a secret.
pub const ENDINGS: &[&str] = &["jwt", "pass", "passcode", "pwd", "token"];

/// Beginnings with a stem that mean something else: `secretary`.
const HARMLESS_STARTS: &[&str] = &["secretar", "secretion"];

/// Words with such an ending that mean something else.
const HARMLESS_ENDINGS: &[&str] = &[
    "bypass",
    "compass",
    "overpass",
    "surpass",
    "trespass",
    "underpass",
];

/// Whether the name of an attribute means a secret. Case, `-` and `_` do not matter.
pub fn means_secret(name: &[u8]) -> bool {
    // No longer name passes the check of names.
    let Some(name) = name.get(..name.len().min(LONGEST_NAME)) else {
        return true;
    };
    let mut lower = [0u8; LONGEST_NAME];
    for (to, from) in lower.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    has_stem(&lower, name.len()) || has_ending(&lower, name.len()) || has_word(name, &lower)
}

/// Rule 3. Digits count as letters here: `pkcs12`.
fn has_stem(lower: &[u8; LONGEST_NAME], len: usize) -> bool {
    let mut letters = [0u8; LONGEST_NAME];
    let mut count = 0;
    for &byte in lower.iter().take(len) {
        if let (true, Some(slot)) = (byte.is_ascii_alphanumeric(), letters.get_mut(count)) {
            *slot = byte;
            count += 1;
        }
    }
    let mut rest = letters.get(..count).unwrap_or_default();
    while let Some((first, after)) = rest.split_first() {
        // Few letters begin a stem: most positions end here.
        if b"abcemprs".contains(first)
            && STEMS.iter().any(|stem| rest.starts_with(stem.as_bytes()))
            && !HARMLESS_STARTS
                .iter()
                .any(|word| rest.starts_with(word.as_bytes()))
        {
            return true;
        }
        rest = after;
    }
    false
}

/// Rule 4.
fn has_ending(lower: &[u8; LONGEST_NAME], len: usize) -> bool {
    lower
        .get(..len)
        .unwrap_or_default()
        .split(|byte| !byte.is_ascii_alphabetic())
        .any(|run| {
            with_singular(run).any(|run| {
                ENDINGS.iter().any(|end| run.ends_with(end.as_bytes()))
                    && !HARMLESS_ENDINGS
                        .iter()
                        .any(|word| run.ends_with(word.as_bytes()))
            })
        })
}

/// Rules 1 and 2.
fn has_word(name: &[u8], lower: &[u8; LONGEST_NAME]) -> bool {
    let mut before: &[u8] = b"";
    let mut start = 0;
    for end in 1..=name.len() {
        if !word_ends(name, end) {
            continue;
        }
        let word = lower.get(start..end).unwrap_or_default();
        start = end;
        if !word.first().is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let secret = with_singular(word).any(|word| {
            WORDS.iter().any(|known| known.as_bytes() == word)
                || PAIRS.iter().any(|(first, second)| {
                    second.as_bytes() == word
                        && with_singular(before).any(|before| first.as_bytes() == before)
                })
        });
        if secret {
            return true;
        }
        before = word;
    }
    false
}

/// Whether a word, or a run of other bytes, ends before the byte at `end`.
fn word_ends(name: &[u8], end: usize) -> bool {
    let (Some(last), Some(next)) = (end.checked_sub(1).and_then(|i| name.get(i)), name.get(end))
    else {
        return true;
    };
    if last.is_ascii_alphabetic() != next.is_ascii_alphabetic() {
        return true;
    }
    if !next.is_ascii_uppercase() {
        return false;
    }
    // `imapPassword`, and the `K` of `APIKey`; the `s` of `TOKENs` or `APIs` is no word.
    last.is_ascii_lowercase() || name.get(end + 1).is_some_and(u8::is_ascii_lowercase)
}

/// The word, and without its plural `s` where it has one.
fn with_singular(word: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::once(word).chain(word.strip_suffix(b"s"))
}

/// The attribute names that may become headers although they mean a secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exposed(Vec<Bytes>);

impl Exposed {
    pub fn new<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> Self {
        Self(names.into_iter().map(|n| n.as_ref().into()).collect())
    }

    /// Names count as equal where their headers are.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.iter().any(|exposed| same_name(exposed, name))
    }
}

/// What the running configuration exposes. A fork inherits it, and nothing here can be locked
/// while one happens.
static EXPOSED: ArcSwapOption<Exposed> = ArcSwapOption::const_empty();

/// See [`exposed_version`].
static EXPOSED_VERSION: AtomicU64 = AtomicU64::new(0);

/// The running configuration's `expose_attributes`; none before a configuration.
pub fn exposed() -> Option<Arc<Exposed>> {
    EXPOSED.load_full()
}

/// How often the policy was set. Who asks for this before [`exposed`] gets a policy of this version
/// or a later one, and sees by the next number that it may be another.
pub fn exposed_version() -> u64 {
    // With the release below: who sees the number sees the policy.
    EXPOSED_VERSION.load(Ordering::Acquire)
}

/// Sets the running configuration's `expose_attributes`, for all request contexts of the process.
pub fn set_exposed(names: &[String]) {
    EXPOSED.store(Some(Arc::new(Exposed::new(names))));
    EXPOSED_VERSION.fetch_add(1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_a_secret_are_recognised() {
        for name in [
            "password",
            "Password",
            "PASSWORD",
            "PaSsWoRd",
            "userPassword",
            "user_password",
            "user-password",
            "userpassword",
            "imapPassword",
            "imappassword",
            "password2",
            "passwd",
            "pass",
            "imap_pass",
            "dbPass",
            "imappass",
            "passphrase",
            "keyPassphrase",
            "pass-word",
            "pwd",
            "unicodePwd",
            "userpwd",
            "PWD",
            "pw",
            "user_pw",
            "token",
            "tokens",
            "accessToken",
            "accesstoken",
            "ACCESSTOKEN",
            "access-token",
            "refresh_token",
            "oauth2token",
            "oauth2_tokens",
            "idToken",
            "secret",
            "clientSecret",
            "client_secrets",
            "totpSecret",
            "totp_secret",
            "secretKey",
            "privateKey",
            "private_key",
            "privatekey",
            "dkimPrivateKey",
            "sshPrivKey",
            "apiKey",
            "APIKey",
            "api-key",
            "api_key_2",
            "apikeys",
            "x-api-key",
            "recoveryCodes",
            "recovery_codes",
            "recoverycode",
            "backup-codes",
            "sambaNTPassword",
            "ipaNTHash",
            "nt_hash",
            "lmhash",
            "krbPrincipalKey",
            "userPKCS12",
            "webauthnCredentials",
            "supplementalCredentials",
            "credential",
            "jwt",
            "bearer",
            "totpRecovery",
            "otp",
            "pin",
            "userPin",
            "encryptionKey",
            "session_key",
            "psk",
            "wifiPSK",
            "securityAnswer",
            "secret_area",
        ] {
            assert!(means_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_that_only_look_alike_are_not() {
        for name in [
            "passport",
            "passportNumber",
            "tokenizer",
            "tokenize",
            "keyboard",
            "key",
            "keys",
            "publicKey",
            "sshPublicKey",
            "secretary",
            "Secretary",
            "compass",
            "bypass",
            "bypasses",
            "passenger",
            "passive",
            "hostip",
            "Proxy-Host",
            "proxy_host",
            "mail",
            "uid",
            "cn",
            "dn",
            "quota",
            "spinner",
            "opinion",
            "pinboard",
            "wording",
            "sword",
            "accessLevel",
            "code",
            "postalCode",
            "countryCode",
            "hash",
            "monkey",
            "keyword",
            "session",
            "authenticated",
            "author",
            "credit",
            "accredited",
            "upward",
            "httpd",
            "powder",
            "display_name",
            "",
            "-",
            "_",
            "2",
        ] {
            assert!(!means_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn every_listed_word_is_recognised_alone() {
        for word in WORDS.iter().chain(STEMS).chain(ENDINGS) {
            assert!(means_secret(word.as_bytes()), "{word}");
            assert!(means_secret(word.to_uppercase().as_bytes()), "{word}");
        }
        for (first, second) in PAIRS {
            for separator in ["-", "_", ".", "2"] {
                assert!(means_secret(
                    format!("{first}{separator}{second}s").as_bytes()
                ));
            }
        }
        for stem in STEMS {
            assert!(b"abcemprs".contains(&stem.as_bytes()[0]), "{stem}");
        }
    }

    #[test]
    fn exposed_names_count_as_their_headers_do() {
        let exposed = Exposed::new(["access_token"]);
        assert!(exposed.contains(b"Access-Token"));
        assert!(!exposed.contains(b"accessToken"));
    }
}
