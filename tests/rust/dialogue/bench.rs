//! Probe after probe of one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use nauthilus_backend::engine::probe::{Depth, Outcome, Prober, Resumption};
use nauthilus_backend::engine::target::{Host, Protocol, Target, TlsMode};
use openssl::ssl::SslContext;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::server::Do::{Hold, Tls};
use crate::server::{Do, serve};
use crate::support::target;
use crate::tls::{agreement, implicit, starttls, trusting, under_tls};

const HOUR: Duration = Duration::from_secs(3600);

/// One server, one prober, one slot for sessions.
pub(crate) struct Bench {
    prober: Arc<Prober>,
    pub(crate) target: Target,
    pub(crate) depth: Depth,
    pub(crate) sessions: Resumption,
    /// Connections that the server has had.
    pub(crate) met: Arc<AtomicUsize>,
    /// How many of these did not follow the script.
    pub(crate) faults: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Bench {
    pub(crate) async fn new(mut target: Target, depth: Depth, script: Vec<Do>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        target.host = Host::Ip(address.ip());
        target.port = address.port();
        let met = Arc::new(AtomicUsize::new(0));
        let faults = Arc::new(AtomicUsize::new(0));
        let (count, count_faults) = (met.clone(), faults.clone());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let (script, faults) = (script.clone(), count_faults.clone());
                tokio::spawn(async move {
                    let served = serve(stream, script).await;
                    faults.fetch_add(usize::from(served.is_err()), SeqCst);
                });
            }
        });
        Self {
            prober: Arc::default(),
            target,
            depth,
            sessions: Resumption {
                slot: Arc::default(),
                full_every: HOUR,
            },
            met,
            faults,
            server,
        }
    }

    /// Another server at the same target, which is offered the sessions of this one.
    pub(crate) async fn succeeded_by(&self, script: Vec<Do>) -> Self {
        let mut next = Self::new(self.target.clone(), self.depth, script).await;
        next.sessions = self.sessions.clone();
        next.prober = self.prober.clone();
        next
    }

    pub(crate) async fn probe(&self) -> Outcome {
        self.prober
            .run(&self.target, self.depth, Some(&self.sessions))
            .await
    }

    /// Whether a good probe resumed a session.
    pub(crate) async fn resumes(&self) -> bool {
        let outcome = self.probe().await;
        assert_eq!(outcome.result, Ok(()));
        outcome.tls.expect("a handshake").resumed
    }

    /// Probes until a session is resumed, and returns how many probes that took. A ticket of TLS 1.3
    /// comes after the handshake, and a probe does not wait for one that a busy server sends late.
    pub(crate) async fn probes_until_resumed(&self) -> usize {
        for count in 1..=20 {
            if self.resumes().await {
                return count;
            }
        }
        panic!("20 probes resumed no session");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Every way in which a probe comes to TLS, with such a server.
pub(crate) fn ways(server: &SslContext) -> Vec<(&'static str, Target, Depth, Vec<Do>)> {
    let tls = || vec![Tls(server.clone())];
    let first_byte = Target {
        tls_mode: TlsMode::Implicit,
        ..trusting(target(Protocol::Imap))
    };
    vec![
        (
            "connect",
            first_byte,
            Depth::Connect,
            [tls(), vec![Hold]].concat(),
        ),
        (
            "imap",
            implicit(Protocol::Imap),
            Depth::Deep,
            [tls(), under_tls(Protocol::Imap, false)].concat(),
        ),
        (
            "http",
            implicit(Protocol::Http),
            Depth::Deep,
            [tls(), under_tls(Protocol::Http, false)].concat(),
        ),
        (
            "smtp after starttls",
            starttls(Protocol::Smtp),
            Depth::Deep,
            [
                agreement(Protocol::Smtp),
                tls(),
                under_tls(Protocol::Smtp, true),
            ]
            .concat(),
        ),
    ]
}
