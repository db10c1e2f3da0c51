//! LMTP (RFC 2033): SMTP with LHLO instead of EHLO. The other difference, one reply per recipient,
//! does not matter here, because probes deliver nothing.
//!
//! ```text
//! S: 220 mail.example.com LMTP ready               RFC 2033 §4, RFC 5321 §3.1
//! C: LHLO localhost                                RFC 2033 §4.1
//! S: 250-mail.example.com
//! S: 250-STARTTLS
//! S: 250 ENHANCEDSTATUSCODES
//! C: STARTTLS                                      RFC 3207 §4, tls_mode starttls
//! S: 220 2.0.0 begin TLS
//!    (TLS; what was learned so far is forgotten, RFC 3207 §4.2)
//! C: LHLO localhost
//! S: 250-mail.example.com
//! S: 250 AUTH PLAIN
//! C: AUTH PLAIN AHByb2JlAHNlY3JldA==               RFC 4954 §4, where credentials are set
//! S: 235 2.7.0 logged in
//! C: QUIT                                          RFC 5321 §4.1.1.10
//! S: 221 2.0.0 bye
//! ```
//!
//! There is no HELO to fall back to: a server that refuses LHLO speaks no LMTP.

use super::session::Session;
use super::smtp::{self, Hello};
use crate::engine::probe::error::ProbeError;

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    smtp::converse(s, Hello::Lhlo).await
}
