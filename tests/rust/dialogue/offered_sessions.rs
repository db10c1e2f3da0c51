//! Servers that fail only where a hello offers a session: the probe is repeated without it, so that
//! they stay alive, and the offer is not made again.

use std::io;
use std::time::Duration;

use openssl::ssl::SslVersion;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::bench::{Bench, ways};
use crate::pki::{Identity, Wish, root};
use crate::server::{Do, serve};

/// What such a server does when a ClientHello offers a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    Silently,
    WithReset,
}

/// Whether a ClientHello offers a session of TLS 1.3.
///
/// A record's header is 5 bytes long, the message's another 4; version, random number, session,
/// suites, compressions and extensions follow (RFC 8446 §4.1.2).
fn offers_session(hello: &[u8]) -> bool {
    const PRE_SHARED_KEY: usize = 41;
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    let suites_at = 44 + usize::from(hello[43]);
    let mut at = suites_at + 2 + number(suites_at);
    at += 1 + usize::from(hello[at]) + 2;
    while at < hello.len() {
        if number(at) == PRE_SHARED_KEY {
            return true;
        }
        at += 4 + number(at + 2);
    }
    false
}

async fn peek_hello(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut seen = vec![0; 2048];
    loop {
        let count = stream.peek(&mut seen).await?;
        let whole = 5 + usize::from(u16::from_be_bytes([seen[3], seen[4]]));
        if count > 5 && count >= whole {
            seen.truncate(whole);
            return Ok(seen);
        }
    }
}

/// Has `bench` probe a server that fails so where a session is offered.
async fn failing_server(bench: &mut Bench, script: Vec<Do>, fails: Fails) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    bench.target.port = listener.local_addr().unwrap().port();
    bench.target.tls_timeout = Duration::from_millis(300);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                if offers_session(&peek_hello(&stream).await?) {
                    match fails {
                        Fails::Silently => std::future::pending::<()>().await,
                        Fails::WithReset => stream.set_zero_linger()?,
                    }
                    return Ok(());
                }
                serve(stream, script).await
            });
        }
    })
}

#[tokio::test]
async fn a_server_that_fails_with_sessions_is_alive_and_offered_no_more() {
    let leaf = Identity::new(&Wish {
        issuer: Some(root().0),
        ..Wish::default()
    });
    let server = leaf.resuming_server(SslVersion::TLS1_3);
    // The ClientHello is the first thing that such a server reads, so there are no cases with
    // STARTTLS.
    let ways = ways(&server).into_iter();
    for (name, target, depth, script) in ways.filter(|(_, target, ..)| target.implicit_tls()) {
        for fails in [Fails::WithReset, Fails::Silently] {
            // A machine that stands still for a moment may make a probe too late, or the server's
            // ticket; not each time.
            let mut problems = Vec::new();
            for _ in 0..10 {
                let bench = Bench::new(target.clone(), depth, Vec::new()).await;
                let Err(problem) = is_offered_no_more(bench, script.clone(), fails).await else {
                    problems.clear();
                    break;
                };
                problems.push(problem);
            }
            assert!(problems.is_empty(), "{name} {fails:?}: {problems:#?}");
        }
    }
}

/// The first probe gives a session. The second offers it and is repeated, in what is left of the
/// time; those that follow offer none.
async fn is_offered_no_more(mut bench: Bench, script: Vec<Do>, fails: Fails) -> Result<(), String> {
    let failing = failing_server(&mut bench, script, fails).await;
    let mut waited = Vec::new();
    for probe in 0..4 {
        let outcome = bench.probe().await;
        outcome.result.map_err(|e| format!("probe {probe}: {e}"))?;
        waited.push(outcome.elapsed >= bench.target.tls_timeout);
    }
    failing.abort();
    let expected = [false, fails == Fails::Silently, false, false];
    if waited == expected {
        Ok(())
    } else {
        Err(format!("waited {waited:?}"))
    }
}
