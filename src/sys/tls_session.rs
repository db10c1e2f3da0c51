//! Copies of TLS sessions, so that each can be resumed more than once.

use std::ffi::c_void;

use foreign_types::ForeignType;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslRef, SslSession, SslVersion};

unsafe extern "C" {
    // `SSL_SESSION *SSL_SESSION_dup(const SSL_SESSION *src)`, OpenSSL 1.1.1.
    fn SSL_SESSION_dup(session: *const c_void) -> *mut c_void;
}

/// A session that a server has just sent, while OpenSSL's callback for it runs.
pub struct GivenSession<'a> {
    ssl: &'a SslRef,
    session: &'a SslSession,
}

/// Calls `keep` with each session that the server of a connection of the context sends.
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
    /// The connection on which the server sent it.
    pub fn connection(&self) -> &SslRef {
        self.ssl
    }

    /// # Errors
    /// There is no memory.
    pub fn copy(&self) -> Result<Resumable, ErrorStack> {
        Ok(Resumable {
            context: self.ssl.ssl_context().to_owned(),
            session: copy(self.session)?,
        })
    }
}

/// A session, and the context of the connection that received it.
pub struct Resumable {
    context: SslContext,
    /// Connections only get copies of it: OpenSSL marks the session of a connection as not
    /// resumable if that connection is aborted, and in TLS 1.3 once it has been resumed.
    session: SslSession,
}

impl Resumable {
    pub fn version(&self) -> SslVersion {
        self.session.protocol_version()
    }

    /// A new connection that will offer the session to the server.
    ///
    /// # Errors
    /// There is no memory.
    pub fn connection(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        // SAFETY: the session must belong to the context of `ssl`. It does: `ssl` was made from
        // the context that `GivenSession::copy` took, together with the session, from the
        // connection which received it. Nothing else makes a `Resumable`.
        unsafe { ssl.set_session(&*copy(&self.session)?)? };
        Ok(ssl)
    }
}

fn copy(session: &SslSession) -> Result<SslSession, ErrorStack> {
    // SAFETY: the session is borrowed, so it lives, and no other thread changes it: either it is
    // that of a `GivenSession`, whose callback still runs on this thread, or that of a
    // `Resumable`, which no connection has.
    let copy = unsafe { SSL_SESSION_dup(session.as_ptr().cast()) };
    if copy.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: `copy` is a new session with one reference, which the result takes over.
    Ok(unsafe { SslSession::from_ptr(copy.cast()) })
}
