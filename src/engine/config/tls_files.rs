//! The content of the files with certificates and keys that a configuration names.

use std::sync::Arc;

use super::authorities::Authorities;
use super::client_certificates::ClientCertificates;
use crate::engine::target::Target;

/// The content of all files that handshakes need, read when the configuration is put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub authorities: Authorities,
    pub client_certificates: ClientCertificates,
}

impl TlsFiles {
    /// Reads what the handshakes of `targets` need.
    ///
    /// # Errors
    /// `backend_servers[2].tls_ca_file: …` for a file that cannot be used, and
    /// `backend_servers[2].tls: …` where TLS is not possible in this process.
    pub fn of(targets: &[Arc<Target>]) -> Result<Self, String> {
        Ok(Self {
            authorities: Authorities::of(targets)?,
            client_certificates: ClientCertificates::of(targets)?,
        })
    }
}
