//! Probe after probe of one server: which handshakes are full, which resume a session, and
//! what a resumed one still sees of the certificate.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nauthilus_backend::engine::probe::{Depth, Outcome, Prober, Resumption};
use nauthilus_backend::engine::target::{Host, Protocol, Target, TlsMode};
use openssl::ssl::{SslContext, SslVersion};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::pki::{Identity, Wish, root};
use crate::server::Do::{Hold, Tls};
use crate::server::{Do, serve};
use crate::support::target;
use crate::tls::{agreement, implicit, starttls, trusting, under_tls};

const HOUR: Duration = Duration::from_secs(3600);
const NEVER: Duration = Duration::ZERO;

/// One server, one prober, one slot for sessions.
struct Bench {
    prober: Prober,
    target: Target,
    depth: Depth,
    sessions: Resumption,
    server: JoinHandle<()>,
}

impl Bench {
    async fn new(mut target: Target, depth: Depth, script: Vec<Do>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        target.host = Host::Ip(address.ip());
        target.port = address.port();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone()));
            }
        });
        Self {
            prober: Prober::default(),
            target,
            depth,
            sessions: Resumption {
                slot: Arc::default(),
                full_every: HOUR,
            },
            server,
        }
    }

    async fn probe(&self) -> Outcome {
        self.prober
            .run(&self.target, self.depth, Some(&self.sessions))
            .await
    }

    /// Whether a good probe resumed a session.
    async fn resumes(&self) -> bool {
        let outcome = self.probe().await;
        assert_eq!(outcome.result, Ok(()));
        outcome.tls.expect("a handshake").resumed
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn leaf(ends_in: Option<i64>) -> Identity {
    Identity::new(&Wish {
        issuer: Some(root().0),
        ends_in,
        ..Wish::default()
    })
}

/// Every way to come to TLS, at such a server.
fn ways(server: &SslContext) -> Vec<(&'static str, Target, Depth, Vec<Do>)> {
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

#[tokio::test]
async fn a_full_handshake_is_followed_by_resumed_ones() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let server = leaf(None).resuming_server(version);
        for (name, target, depth, script) in ways(&server) {
            let mut bench = Bench::new(target, depth, script).await;
            let mut resumed = Vec::new();
            for _ in 0..5 {
                resumed.push(bench.resumes().await);
            }
            assert_eq!(
                resumed,
                [false, true, true, true, true],
                "{name} {version:?}"
            );

            bench.sessions.full_every = NEVER;
            assert!(!bench.resumes().await, "{name} {version:?}: not when due");
            assert!(!bench.resumes().await, "{name} {version:?}: not when due");
            bench.sessions.full_every = HOUR;
            assert!(bench.resumes().await, "{name} {version:?}: again");
            bench.sessions.slot.clear();
            assert!(!bench.resumes().await, "{name} {version:?}: forgotten");
        }
    }
}

/// A server that was restarted does not know its old sessions.
#[tokio::test]
async fn a_session_that_is_not_taken_is_replaced() {
    let (name, target, depth, _) = ways(&leaf(None).resuming_server(SslVersion::TLS1_3)).remove(0);
    let old = [Tls(leaf(None).resuming_server(SslVersion::TLS1_3)), Hold];
    let new = [Tls(leaf(None).resuming_server(SslVersion::TLS1_3)), Hold];
    let first = Bench::new(target.clone(), depth, old.to_vec()).await;
    assert!(!first.resumes().await, "{name}");
    assert!(first.resumes().await, "{name}");
    let mut second = Bench::new(target, depth, new.to_vec()).await;
    second.sessions = first.sessions.clone();
    let resumed = [second.resumes().await, second.resumes().await];
    assert_eq!(resumed, [false, true], "{name}");
}

/// A server that was reconfigured may fail where it is offered an old session.
#[tokio::test]
async fn a_handshake_that_an_old_session_spoils_is_made_anew() {
    let (old, new) = (SslVersion::TLS1_2, SslVersion::TLS1_3);
    let leaf = leaf(None);
    let after = ways(&leaf.resuming_server(new));
    for ((name, target, depth, script), after) in
        ways(&leaf.resuming_server(old)).into_iter().zip(after)
    {
        let first = Bench::new(target.clone(), depth, script).await;
        assert!(!first.resumes().await, "{name}");
        assert!(first.resumes().await, "{name}");
        let mut second = Bench::new(target.clone(), depth, after.3).await;
        second.sessions = first.sessions.clone();
        assert!(!second.resumes().await, "{name}");
        assert!(second.resumes().await, "{name}");

        // What fails without one as well is a failure.
        let mut broken = Bench::new(target, depth, vec![Do::Close]).await;
        broken.sessions = second.sessions.clone();
        assert!(broken.probe().await.result.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_that_ends_is_noticed_on_a_resumed_session() {
    let leaf = leaf(Some(8));
    let mut benches = Vec::new();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (name, target, depth, script) in ways(&leaf.resuming_server(version)) {
            let name = format!("{name} {version:?}");
            benches.push((name, Bench::new(target, depth, script).await));
        }
    }
    let mut ends = 0;
    for (name, bench) in &benches {
        assert!(!bench.resumes().await, "{name}");
        let facts = bench.probe().await.tls.expect("a handshake");
        assert!(facts.resumed, "{name}");
        ends = facts.not_after.expect("known on a resumed session, too");
    }
    // Its end is what is waited for.
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    while now() <= u64::try_from(ends).unwrap() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (name, bench) in &benches {
        let reason = bench.probe().await.result.unwrap_err().to_string();
        assert!(
            reason.starts_with("tls: certificate has expired (on 20"),
            "{name}: {reason}"
        );
    }
}

#[tokio::test]
async fn waiting_for_a_ticket_is_no_latency() {
    let server = leaf(None).ticketless_server();
    let (_, target, depth, script) = ways(&server).swap_remove(0);
    let bench = Bench::new(target, depth, script).await;
    let started = Instant::now();
    let outcome = bench.probe().await;
    let waited = started.elapsed() - outcome.elapsed;
    assert_eq!(outcome.result, Ok(()));
    assert!(waited >= Duration::from_millis(40), "waited {waited:?}");
}
