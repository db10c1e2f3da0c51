//! Resuming a TLS session.

use std::ffi::c_void;

use foreign_types::ForeignType;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslRef, SslSession, SslVersion};

unsafe extern "C" {
    // `SSL_SESSION *SSL_SESSION_dup(const SSL_SESSION *src)`, OpenSSL 1.1.1.
    fn SSL_SESSION_dup(session: *const c_void) -> *mut c_void;
}

/// A session that a server has just given.
pub struct GivenSession<'a> {
    ssl: &'a SslRef,
    session: &'a SslSession,
}

/// Calls `keep` with each session that a connection of the context is given.
pub fn on_new(
    builder: &mut SslContextBuilder,
    keep: impl Fn(&GivenSession<'_>) + Send + Sync + 'static,
) {
    builder.set_new_session_callback(move |ssl, session| {
        keep(&GivenSession {
            ssl,
            session: &session,
        });
    });
}

impl GivenSession<'_> {
    /// The connection that it was given to.
    pub fn connection(&self) -> &SslRef {
        self.ssl
    }

    /// # Errors
    /// Where there is no memory.
    pub fn copy(&self) -> Result<Resumable, ErrorStack> {
        Ok(Resumable {
            context: self.ssl.ssl_context().to_owned(),
            session: copy(self.session)?,
        })
    }
}

/// A session together with the context that made it.
pub struct Resumable {
    context: SslContext,
    /// No connection has it, only copies of it: OpenSSL spoils the session of a connection
    /// that is broken off, and of TLS 1.3 also that of one which resumed it.
    session: SslSession,
}

impl Resumable {
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
        // that of the connection which OpenSSL gave the session to: only `Given::copy` makes a
        // `Resumable`, and only OpenSSL's callback a `GivenSession`.
        unsafe { ssl.set_session(&*copy(&self.session)?)? };
        Ok(ssl)
    }
}

fn copy(session: &SslSession) -> Result<SslSession, ErrorStack> {
    // SAFETY: the session lives, and OpenSSL lets this thread read it: either it is a `GivenSession`
    // one, and the callback that it was given to still runs, or a `Resumable`'s own, which no
    // connection has.
    let copy = unsafe { SSL_SESSION_dup(session.as_ptr().cast()) };
    if copy.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: a new session, with the one reference that is now the result's.
    Ok(unsafe { SslSession::from_ptr(copy.cast()) })
}
