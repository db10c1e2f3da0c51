//! Handshakes made by rustls: of TLS 1.3 alone, with certificates that OpenSSL verifies.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use openssl::hash::{MessageDigest, hash};
use openssl::ssl::{Ssl, SslContext};
use openssl::stack::Stack;
use openssl::x509::X509Ref;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    SignatureScheme, version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Certificates;
use super::sessions::{Made, Session, SessionSlot};
use super::wire::Wire;
use super::{expect_name, reason, send_at_once, server_name};
use crate::engine::probe::deadline::within;
use crate::engine::probe::error::{ProbeError, Stage, as_own_lack, io_text, quote};
use crate::engine::target::Target;
use crate::sys::{tls_algorithms, tls_verify};

/// What connections of one policy are made from.
#[derive(Clone)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    /// The verifier's.
    certificates: Arc<Certificates>,
}

impl Client {
    /// A client that takes what OpenSSL's handshakes of `context` would take; none where it could offer nothing.
    pub(super) fn new(context: &SslContext, skip_verify: bool) -> Option<Self> {
        if is_restricted() {
            return None;
        }
        let names = tls_algorithms::ciphers(&*Ssl::new(context).ok()?);
        let mut provider = CryptoProvider {
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        // In the order in which OpenSSL offers them, and of the same rules.
        let rank = |suite: &rustls::SupportedCipherSuite| {
            let ours = suite.suite().as_str()?.replacen("TLS13_", "TLS_", 1);
            names.iter().position(|name| *name == ours)
        };
        provider.cipher_suites.retain(|suite| rank(suite).is_some());
        provider.cipher_suites.sort_by_key(rank);
        let certificates = Arc::<Certificates>::default();
        let verifier = Verifier {
            certificates: certificates.clone(),
            context: context.clone(),
            skips: skip_verify,
            algorithms: provider.signature_verification_algorithms,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Some(Self {
            config: Arc::new(config),
            certificates,
        })
    }

    /// One handshake within the target's `tls_timeout`, which offers the session.
    pub(super) async fn handshake<S>(
        &self,
        wire: Wire<S>,
        target: &Target,
        slot: &Arc<SessionSlot>,
        session: Option<Box<Tls13ClientSessionValue>>,
    ) -> Result<(TlsStream<Wire<S>>, Made), ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |reason: String| ProbeError::new(Stage::Tls, reason);
        let name = ServerName::try_from(server_name(target))
            .map_err(|error| failed(format!("handshake failed: {error}")))?;
        let tickets = Tickets {
            slot: slot.clone(),
            offered: Mutex::new(session),
        };
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::store(Arc::new(tickets));
        let connector = TlsConnector::from(Arc::new(config));
        let connect = connector.connect(name, wire).into_fallible();
        let tls = match within(target.tls_timeout, connect).await {
            None => return Err(ProbeError::timeout(Stage::Tls, target.tls_timeout)),
            Some(Err((error, mut wire))) => {
                send_at_once(&mut wire).await;
                return Err(as_own_lack(&error).unwrap_or_else(|| {
                    let text = quote(io_text(&error).as_bytes());
                    failed(format!("handshake failed: {text}"))
                }));
            }
            Some(Ok(tls)) => tls,
        };
        let (_, connection) = tls.get_ref();
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let not_after = if resumed {
            slot.certificate_end()
        } else {
            let leaf = connection.peer_certificates().and_then(<[_]>::first);
            let leaf = leaf.and_then(|leaf| self.certificates.parsed(leaf));
            leaf.as_deref().and_then(reason::not_after)
        };
        let made = Made {
            not_after,
            resumed,
            // Spent.
            session: None,
            suits_rustls: false,
        };
        Ok((tls, made))
    }
}

/// Whether OpenSSL is held to a list of algorithms, as FIPS 140 has it: MD5 is on none. Then no
/// other library may do its work.
fn is_restricted() -> bool {
    hash(MessageDigest::md5(), b"").is_err()
}

/// Whether rustls can make something of a server's name and certificate.
pub(super) fn takes(name: String, leaf: &X509Ref) -> bool {
    let parses = |der: Vec<u8>| ParsedCertificate::try_from(&CertificateDer::from(der)).is_ok();
    ServerName::try_from(name).is_ok() && leaf.to_der().is_ok_and(parses)
}

/// A connection's view of its target's slot. Each ticket of TLS 1.3 is offered once, as RFC 8446
/// §C.4 advises: the server gives a new one each time.
struct Tickets {
    slot: Arc<SessionSlot>,
    offered: Mutex<Option<Box<Tls13ClientSessionValue>>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.slot.put(Session::Rustls(Box::new(ticket)));
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        offered.take().map(|ticket| *ticket)
    }
}

/// Verifies certificates as OpenSSL does in its own handshakes.
struct Verifier {
    certificates: Arc<Certificates>,
    context: SslContext,
    skips: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn accepts(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Option<bool> {
        let mut ssl = Ssl::new(&self.context).ok()?;
        expect_name(ssl.param_mut(), &name.to_str()).ok()?;
        let mut chain = Stack::new().ok()?;
        for other in others {
            chain.push(self.certificates.parsed(other)?).ok()?;
        }
        let leaf = self.certificates.parsed(leaf)?;
        tls_verify::would_accept(&mut ssl, &leaf, &chain).ok()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.skips || self.accepts(leaf, others, name).unwrap_or(false) {
            true => Ok(ServerCertVerified::assertion()),
            // Why, OpenSSL's own handshake will say.
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const NAME: &str =
        "engine::probe::tls::with_rustls::tests::under_a_list_of_algorithms_it_is_left_out";

    /// In a process of its own with such an OpenSSL, since it asks its configuration once.
    #[test]
    fn under_a_list_of_algorithms_it_is_left_out() {
        if std::env::var_os("OPENSSL_CONF")
            .is_some_and(|path| path.to_string_lossy().contains("nb-listed"))
        {
            assert!(is_restricted());
            return;
        }
        assert!(!is_restricted());
        let path = std::env::temp_dir().join(format!("nb-listed-{}.cnf", std::process::id()));
        let rules = "openssl_conf = all\n[all]\nalg_section = algorithms\n\
            [algorithms]\ndefault_properties = fips=yes\n";
        std::fs::write(&path, rules).unwrap();
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env("OPENSSL_CONF", &path)
            .output()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
