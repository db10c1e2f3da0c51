//! Resuming a TLS session.

use std::ffi::c_void;

use foreign_types::ForeignType;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslSession, SslVersion};

unsafe extern "C" {
    // `SSL_SESSION *SSL_SESSION_dup(const SSL_SESSION *src)`, OpenSSL 1.1.1.
    fn SSL_SESSION_dup(session: *const c_void) -> *mut c_void;
}

/// A session together with the context that made it.
pub struct Resumable {
    context: SslContext,
    /// No connection has it, only copies of it: OpenSSL spoils the session of a connection
    /// that is broken off, and of TLS 1.3 also that of one which resumed it.
    session: SslSession,
}

impl Resumable {
    /// # Errors
    /// Where there is no memory.
    pub fn new(context: &SslContext, session: &SslSession) -> Result<Self, ErrorStack> {
        Ok(Self {
            context: context.clone(),
            session: copy(session)?,
        })
    }

    pub fn version(&self) -> SslVersion {
        self.session.protocol_version()
    }

    /// A connection that offers the session to the server.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn connection(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        // SAFETY: the session must belong to the `Ssl`'s context; `ssl` was just made from
        // the context the session was stored with.
        unsafe { ssl.set_session(&*copy(&self.session)?)? };
        Ok(ssl)
    }
}

fn copy(session: &SslSession) -> Result<SslSession, ErrorStack> {
    // SAFETY: the session lives, and OpenSSL lets this thread read it: either it has just
    // given it to its callback, or no connection has it.
    let copy = unsafe { SSL_SESSION_dup(session.as_ptr().cast()) };
    if copy.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: a new session, with the one reference that is now the result's.
    Ok(unsafe { SslSession::from_ptr(copy.cast()) })
}
