//! Resuming a TLS session.

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslSession};

/// A session together with the context that made it.
pub struct Resumable {
    context: SslContext,
    session: SslSession,
}

impl Resumable {
    pub fn new(context: &SslContext, session: SslSession) -> Self {
        Self {
            context: context.clone(),
            session,
        }
    }

    /// A connection that offers the session to the server.
    pub fn connection(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        // SAFETY: the session must belong to the `Ssl`'s context; `ssl` was just made from
        // the context the session was stored with.
        unsafe { ssl.set_session(&self.session)? };
        Ok(ssl)
    }
}
