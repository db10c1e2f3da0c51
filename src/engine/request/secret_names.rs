//! Attribute names that mean a secret: such an attribute never becomes a header, unless the
//! configuration's `expose_attributes` names it.
//!
//! A name means a secret when its letters, in lower case and with everything else left out, contain one
//! of [`STEMS`] (`userPassword`, `imap-pass`, `oauth2_token`), or when one of its words, with
//! or without a plural `s`, is in [`WORDS`]. Words are what `camelCase`, `snake_case` and `dashed-names`
//! show as words (`userPin`, `user_pw`), and every run of capitals (`PINs`, `userOTPcode`).
//!
//! If a harmless name is withheld, one line of configuration (`expose_attributes`) corrects it; a secret that
//! was sent cannot be taken back. So names that are about a secret (`passwordExpires`) or only contain the
//! same letters (`passport`) are withheld, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::header_name::same_name;
use super::text::Bytes;

/// Letters that mean a secret wherever they are in a name.
pub const STEMS: &[&str] = &[
    "accesskey",
    "apikey",
    "authcode",
    "authkey",
    "backupcode",
    "bearer",
    "credential",
    "encryptionkey",
    "jwt",
    "lmhash",
    "masterkey",
    "nthash",
    "pass",
    "pkcs",
    "principalkey",
    "privatekey",
    "privkey",
    "pwd",
    "recoverycode",
    "recoverykey",
    "scratchcode",
    "secret",
    "securityanswer",
    "seedphrase",
    "sessionkey",
    "sharedkey",
    "signingkey",
    "token",
    "totp",
    "verificationcode",
];

/// Words that mean a secret, but are too short to be searched for inside other words (`pin` in `shipping`).
pub const WORDS: &[&str] = &["cred", "otp", "pin", "psk", "pw"];

/// Whether the name of an attribute means a secret.
pub fn means_secret(name: &[u8]) -> bool {
    let letters: String = name
        .iter()
        .filter(|byte| byte.is_ascii_alphabetic())
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect();
    let mut words = words(name).chain(abbreviations(name));
    STEMS.iter().any(|stem| letters.contains(stem)) || words.any(is_secret_word)
}

fn is_secret_word(word: &[u8]) -> bool {
    let singular = word
        .strip_suffix(b"s")
        .or(word.strip_suffix(b"S"))
        .unwrap_or(word);
    (WORDS.iter()).any(|secret| singular.eq_ignore_ascii_case(secret.as_bytes()))
}

/// The runs of letters of a name, cut where camelCase begins a new word.
fn words(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| !byte.is_ascii_alphabetic())
        .flat_map(|letters| {
            let mut rest = letters;
            std::iter::from_fn(move || {
                let end = (1..rest.len()).find(|&at| begins_word(rest, at));
                let (word, after) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
                rest = after;
                (!word.is_empty()).then_some(word)
            })
        })
}

/// Whether the capital at `at` begins a word: it stands behind a small letter (`userPin`), or is the last of
/// several and a small letter follows (the second `P` of `IMAPPin`).
fn begins_word(letters: &[u8], at: usize) -> bool {
    let is = |at: usize, what: fn(&u8) -> bool| letters.get(at).is_some_and(what);
    is(at, u8::is_ascii_uppercase)
        && (is(at - 1, u8::is_ascii_lowercase) || is(at + 1, u8::is_ascii_lowercase))
}

/// The runs of capitals of a name. camelCase gives their last letter to the small letters behind them, so
/// [`words`] finds no `PIN` in `PINs` or `PINcode`.
fn abbreviations(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| !byte.is_ascii_uppercase())
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

/// The attributes that the active configuration exposes. Not behind a lock: a child that is forked while a
/// thread holds a lock would block for ever.
static EXPOSED: ArcSwapOption<Exposed> = ArcSwapOption::const_empty();

/// See [`exposed_version`].
static EXPOSED_VERSION: AtomicU64 = AtomicU64::new(0);

/// The running configuration's `expose_attributes`; none before a configuration.
pub fn exposed() -> Option<Arc<Exposed>> {
    EXPOSED.load_full()
}

/// How often the policy was set. A caller that reads this number before [`exposed`] gets the policy of this
/// version or of a later one. If the number has changed later, the policy may have changed.
pub fn exposed_version() -> u64 {
    // Pairs with the release in `set_exposed`: a thread that reads the new number also reads the new policy.
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
            "PINs",
            "UserPINs",
            "mailPINs",
            "user_OTPs2",
            "OTPcode",
            "userPINsExpire",
            "securityAnswer",
            "secret_area",
        ] {
            assert!(means_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn ordinary_names_are_not() {
        for name in [
            "keyboard",
            "key",
            "keys",
            "publicKey",
            "sshPublicKey",
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
            "URLs",
            "IMAPspinner",
            "SPINs",
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
    fn names_that_only_contain_the_same_letters_are_withheld_too() {
        for name in [
            "passport",
            "tokenizer",
            "secretary",
            "compass",
            "bypass",
            "passenger",
            "passive",
            "accountHash",
            "totpEnabled",
        ] {
            assert!(means_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn every_listed_word_is_recognised() {
        for word in STEMS.iter().chain(WORDS) {
            for name in [
                (*word).to_owned(),
                word.to_uppercase(),
                format!("{word}s"),
                format!("{}S", word.to_uppercase()),
                format!("{}s", word.to_uppercase()),
                format!("user{}s", word.to_uppercase()),
                format!("user_{word}"),
                format!("user-{word}2"),
                format!("user{}{}", word[..1].to_uppercase(), &word[1..]),
                format!("IMAP{}{}", word[..1].to_uppercase(), &word[1..]),
            ] {
                assert!(means_secret(name.as_bytes()), "{name}");
            }
        }
        for stem in STEMS {
            for at in 1..stem.len() {
                for separator in ["-", "_", ".", "2"] {
                    let name = format!("{}{separator}{}", &stem[..at], &stem[at..]);
                    assert!(means_secret(name.as_bytes()), "{name}");
                }
            }
        }
    }

    /// Names that earlier versions withheld are still withheld.
    #[test]
    fn pairs_of_words_are_recognised() {
        for pair in [
            "auth code",
            "auth key",
            "lm hash",
            "nt hash",
            "principal key",
            "scratch code",
            "security answer",
            "totp code",
            "totp key",
            "totp recovery",
            "totp seed",
            "verification code",
            "pre shared key",
        ] {
            for separator in ["-", "_", ".", "2", ""] {
                let name = format!("{}s", pair.replace(' ', separator));
                assert!(means_secret(name.as_bytes()), "{name}");
            }
        }
        for word in [
            "lmhash",
            "nthash",
            "passcode",
            "passphrase",
            "passwd",
            "password",
            "passwort",
            "pkcs12",
            "presharedkey",
        ] {
            assert!(means_secret(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn exposed_names_count_as_their_headers_do() {
        let exposed = Exposed::new(["access_token"]);
        assert!(exposed.contains(b"Access-Token"));
        assert!(!exposed.contains(b"accessToken"));
    }
}
