//! What a full TLS handshake showed of a server, as one line of bounded length: the table that
//! processes share, and the state file, keep it in this form.
//!
//! ```text
//! at=1795373316 protocol=TLSv1.3 cipher=TLS_AES_128_GCM_SHA256 group=X25519 certificates=2 \
//! subject="CN=mail.example.org" issuer="CN=R11" expiry=1797965316 name="mail.example.org" subject=…
//! ```

use super::fields::{Fields, put, put_quoted};

/// The longest line, in bytes.
pub const TLS_LINE_MAX: usize = 1024;

/// The longest text of one field, in bytes. The longest host name has 253.
const TEXT_MAX: usize = 256;

/// The parameters of a handshake and the server's certificates. A peer chose most of the texts: they
/// may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsDetails {
    /// When the handshake was made, in seconds since 1970.
    pub at: i64,
    /// `TLSv1.3`
    pub version: String,
    /// As OpenSSL names it; empty where the handshake failed before one was chosen.
    pub cipher: String,
    /// That of the key exchange; None where there was none or OpenSSL does not tell.
    pub group: Option<String>,
    /// How many certificates the server sent.
    pub certificates: usize,
    /// The first of them, that of the server itself in front.
    pub chain: Vec<CertificateDetails>,
    /// Why the certificate was not trusted; none where it was, or where it was not verified. No part
    /// of a line.
    pub distrust: Option<String>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateDetails {
    /// `C=US, O=Let's Encrypt, CN=R11`
    pub subject: String,
    pub issuer: String,
    /// The host names and addresses that it is valid for (subjectAltName).
    pub names: Vec<String>,
    /// In seconds since 1970. No part of a line.
    pub not_before: Option<i64>,
    /// In seconds since 1970.
    pub not_after: Option<i64>,
}

impl TlsDetails {
    /// The line, of at most [`TLS_LINE_MAX`] bytes. What does not fit is left out: issuers, the last
    /// of them first, and then names.
    pub fn to_line(&self) -> String {
        let mut line = String::new();
        put(&mut line, "at", self.at);
        put(&mut line, "protocol", plain(&self.version));
        put(&mut line, "cipher", plain(&self.cipher));
        if let Some(group) = &self.group {
            put(&mut line, "group", plain(group));
        }
        put(&mut line, "certificates", self.certificates);
        let mut chain = self.chain.iter();
        if let Some(leaf) = chain.next() {
            put_certificate(&mut line, leaf, usize::MAX);
        }
        for issuer in chain {
            // A certificate of an authority may have many names as well; none matters to anybody.
            if !put_certificate(&mut line, issuer, 0) {
                break;
            }
        }
        line.trim_start().to_owned()
    }

    /// The inverse of [`TlsDetails::to_line`]. None if the text is no such line.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut details = Self::default();
        for field in Fields::of(line) {
            let (name, value) = field.ok()?;
            let last = details.chain.last_mut();
            match (name, last) {
                ("at", _) => details.at = value.parse().ok()?,
                ("protocol", _) => details.version = value.into_owned(),
                ("cipher", _) => details.cipher = value.into_owned(),
                ("group", _) => details.group = Some(value.into_owned()),
                ("certificates", _) => details.certificates = value.parse().ok()?,
                ("subject", _) => details.chain.push(CertificateDetails {
                    subject: value.into_owned(),
                    ..CertificateDetails::default()
                }),
                ("issuer", Some(last)) => last.issuer = value.into_owned(),
                ("expiry", Some(last)) => last.not_after = value.parse().ok(),
                ("name", Some(last)) => last.names.push(value.into_owned()),
                // A field of a later version.
                _ => {}
            }
        }
        (!details.version.is_empty()).then_some(details)
    }
}

/// Appends a certificate and as many of its names as fit, at most `names`. Appends nothing and
/// returns false where not even the certificate fits.
fn put_certificate(line: &mut String, certificate: &CertificateDetails, names: usize) -> bool {
    let start = line.len();
    put_quoted(line, "subject", cut(&certificate.subject));
    put_quoted(line, "issuer", cut(&certificate.issuer));
    if let Some(expiry) = certificate.not_after {
        put(line, "expiry", expiry);
    }
    if line.len() > TLS_LINE_MAX {
        line.truncate(start);
        return false;
    }
    for name in certificate.names.iter().take(names) {
        let before = line.len();
        put_quoted(line, "name", cut(name));
        if line.len() > TLS_LINE_MAX {
            line.truncate(before);
            break;
        }
    }
    true
}

/// OpenSSL's names have neither blanks nor quotes; another library's might.
fn plain(text: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_graphic() && *c != '"';
    text.chars().filter(is_plain).take(64).collect()
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_MAX))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str, names: usize) -> CertificateDetails {
        CertificateDetails {
            subject: format!("CN={name}"),
            issuer: "O=A \"good\" one, CN=R\\11".to_owned(),
            not_before: None,
            not_after: Some(1_800_000_000),
            names: (0..names)
                .map(|n| format!("{name}{n}.example.org"))
                .collect(),
        }
    }

    fn details(chain: Vec<CertificateDetails>) -> TlsDetails {
        TlsDetails {
            at: 1_795_373_316,
            version: "TLSv1.3".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            group: Some("X25519".to_owned()),
            certificates: chain.len(),
            chain,
            distrust: None,
        }
    }

    #[test]
    fn a_line_reads_as_it_was_written() {
        for chain in [
            vec![],
            vec![certificate("mail", 3)],
            vec![
                certificate("mail", 0),
                certificate("R11", 0),
                certificate("Root", 0),
            ],
        ] {
            let details = details(chain);
            let line = details.to_line();
            assert!(!line.contains('\n'));
            assert_eq!(TlsDetails::from_line(&line), Some(details), "{line}");
        }
        for other in ["", "at=1", "protocol", "x=\"", "at=x protocol=TLSv1.3"] {
            assert_eq!(TlsDetails::from_line(other), None, "{other}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_end() {
        let issuers = (0..40).map(|n| certificate(&format!("Issuer {n}"), 0));
        let chain: Vec<_> = [certificate("mail", 2)]
            .into_iter()
            .chain(issuers)
            .collect();
        let long = details(chain);
        let line = long.to_line();
        let read = TlsDetails::from_line(&line).unwrap();
        assert!(line.len() <= TLS_LINE_MAX && line.len() > TLS_LINE_MAX - 200);
        assert_eq!(read.certificates, 41);
        assert_eq!(read.chain, long.chain[..read.chain.len()]);

        let many = details(vec![certificate("mail", 500), certificate("R11", 0)]);
        let line = many.to_line();
        let read = TlsDetails::from_line(&line).unwrap();
        assert!(line.len() <= TLS_LINE_MAX);
        assert_eq!(read.chain.len(), 1);
        assert!(read.chain[0].names.len() > 10);
    }

    #[test]
    fn what_a_peer_writes_into_its_certificate_stays_within_the_line() {
        let hostile = CertificateDetails {
            subject: format!("CN=a\n\" subject=\"x\u{7f}{}", "\"\\é".repeat(5000)),
            issuer: "\r\n\\".repeat(5000),
            not_before: None,
            not_after: None,
            names: vec!["\"\n".repeat(3000); 3],
        };
        let line = TlsDetails {
            version: "a b\"\n".to_owned(),
            cipher: "x".repeat(1000),
            ..details(vec![hostile.clone(), hostile])
        }
        .to_line();
        assert!(
            line.len() <= TLS_LINE_MAX && !line.contains(char::is_control),
            "{line}"
        );
        let read = TlsDetails::from_line(&line).unwrap();
        assert_eq!(read.version, "ab");
    }
}
