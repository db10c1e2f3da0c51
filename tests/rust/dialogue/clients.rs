//! Which of the two clients of TLS makes a handshake: OpenSSL a target's first, rustls those after
//! it where it can, and OpenSSL all that rustls fails at.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nauthilus_backend::engine::probe::Resumption;
use nauthilus_backend::engine::target::Target;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ssl::{ClientHelloResponse, SslAlert, SslContextBuilder, SslVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::bench::{Bench, ways};
use crate::pki::{Identity, Key, Wish, root};
use crate::server::Do::{Blurt, Part, Say, Tls};
use crate::server::serve;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Openssl,
    Rustls,
}
use By::{Openssl, Rustls};

/// Rustls offers the suites of TLS 1.3 alone, two bytes each.
fn by(suites: &[u8]) -> By {
    if suites.len() <= 2 * 4 {
        Rustls
    } else {
        Openssl
    }
}

/// Who said hello to a server, in order.
#[derive(Clone, Default)]
struct Hellos(Arc<Mutex<Vec<By>>>);

impl Hellos {
    fn take(&self) -> Vec<By> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Has the server note each hello, and refuse those of `refused`.
    fn note(&self, context: &mut SslContextBuilder, refused: Option<By>) {
        let seen = self.0.clone();
        context.set_client_hello_callback(move |ssl, alert| {
            let by = by(ssl.client_hello_ciphers().unwrap_or_default());
            seen.lock().unwrap().push(by);
            if refused == Some(by) {
                *alert = SslAlert::HANDSHAKE_FAILURE;
                return Err(ErrorStack::get());
            }
            Ok(ClientHelloResponse::SUCCESS)
        });
    }
}

fn identity(wish: Wish<'_>) -> Identity {
    Identity::new(&Wish {
        issuer: Some(wish.issuer.unwrap_or(root().0)),
        ..wish
    })
}

/// A server behind TLS's first byte to which probes only come to knock.
async fn knocked_at(
    identity: &Identity,
    chain: &[&Identity],
    change: impl FnOnce(&mut SslContextBuilder),
) -> Bench {
    let server = identity.lax_server(chain, change);
    let (_, target, depth, script) = ways(&server).swap_remove(0);
    Bench::new(target, depth, script).await
}

/// What two handshakes with a good server leave: the next one is made by rustls, which has
/// shown that it can.
pub(crate) async fn quick_sessions() -> Resumption {
    let hellos = Hellos::default();
    let good = identity(Wish::default());
    let server = knocked_at(&good, &[], |context| hellos.note(context, None)).await;
    for _ in 0..2 {
        assert_eq!(server.probe().await.result, Ok(()));
    }
    assert_eq!(hellos.take(), [Openssl, Rustls]);
    // Without a session, so that nothing else can be to blame.
    Resumption {
        full_every: Duration::ZERO,
        ..server.sessions.clone()
    }
}

#[tokio::test]
async fn rustls_makes_what_follows_a_first_handshake_of_tls_1_3() {
    for (version, expected) in [
        (SslVersion::TLS1_3, [Openssl, Rustls, Rustls, Rustls]),
        (SslVersion::TLS1_2, [Openssl; 4]),
    ] {
        for full_every in [Duration::from_secs(3600), Duration::ZERO] {
            let hellos = Hellos::default();
            let server = identity(Wish::default()).lax_server(&[], |context| {
                context.set_min_proto_version(Some(version)).unwrap();
                context.set_max_proto_version(Some(version)).unwrap();
                // A hello of TLS 1.2 alone is short as well.
                let refused = (version == SslVersion::TLS1_2).then_some(Rustls);
                hellos.note(context, refused);
            });
            for (name, target, depth, script) in ways(&server) {
                let name = format!("{name}, {version:?}, {full_every:?}");
                let mut bench = Bench::new(target, depth, script).await;
                bench.sessions.full_every = full_every;
                let mut resumed = 0;
                for _ in 0..4 {
                    resumed += usize::from(bench.resumes().await);
                }
                assert_eq!(hellos.take(), expected, "{name}");
                let fulls = expected.iter().filter(|&&by| by == expected[3]).count();
                let most = 4 - 1 - usize::from(fulls < 4);
                let expected = if full_every.is_zero() { 0 } else { most };
                assert_eq!(resumed, expected, "{name}");
            }
        }
    }
}

/// It is not even tried.
#[tokio::test]
async fn what_rustls_could_not_do_is_left_to_openssl() {
    let plain = Wish::default;
    let key = |key| Wish { key, ..plain() };
    let ours: fn(&mut SslContextBuilder) = |_| ();
    let groups: fn(&mut SslContextBuilder) = |context| context.set_groups_list("P-384").unwrap();
    for (name, wish, change, expected) in [
        ("P-384", key(Key::Ec(Nid::SECP384R1)), ours, Rustls),
        ("Ed25519", key(Key::Ed25519), ours, Rustls),
        ("RSA", key(Key::Rsa(2048)), ours, Rustls),
        ("P-521", key(Key::Ec(Nid::SECP521R1)), ours, Openssl),
        ("P-384 exchanged", plain(), groups, Openssl),
    ] {
        let hellos = Hellos::default();
        let identity = identity(wish);
        let noting = |context: &mut SslContextBuilder| {
            change(context);
            hellos.note(context, None);
        };
        let server = knocked_at(&identity, &[], noting).await;
        for _ in 0..3 {
            assert_eq!(server.probe().await.result, Ok(()), "{name}");
        }
        let mut seen = hellos.take();
        if name == "P-384 exchanged" {
            // The server asks for a second hello each time (RFC 8446 §4.1.4).
            assert_eq!(seen.len(), 6);
            seen.truncate(3);
        }
        assert_eq!(seen, [Openssl, expected, expected], "{name}");
        assert_eq!(server.met.load(SeqCst), 3, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_fails_rustls_is_left_to_openssl() {
    for (name, target, depth, script) in ways(&identity(Wish::default()).server(&[])) {
        let hellos = Hellos::default();
        let picky = identity(Wish::default()).lax_server(&[], |context| {
            hellos.note(context, Some(Rustls));
        });
        let script = script.into_iter().map(|step| match step {
            Tls(_) => Tls(picky.clone()),
            step => step,
        });
        let bench = Bench::new(target, depth, script.collect()).await;
        for _ in 0..4 {
            assert_eq!(bench.probe().await.result, Ok(()), "{name}");
        }
        let expected = [Openssl, Rustls, Openssl, Openssl, Openssl];
        assert_eq!(hellos.take(), expected, "{name}");
    }
}

/// What a server that is shy of some hellos does at them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shy {
    Silent,
    Resets,
}

/// What a hello shows.
struct Hello {
    by: By,
    /// It offers a session of TLS 1.3.
    has_session: bool,
}

impl Hello {
    /// A record's header is 5 bytes long, the message's another 4; version, random number, session,
    /// suites, compressions and extensions follow (RFC 8446 §4.1.2).
    fn read(bytes: &[u8]) -> Self {
        const PRE_SHARED_KEY: usize = 41;
        let number = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let suites_at = 44 + usize::from(bytes[43]);
        let suites = number(suites_at);
        let mut at = suites_at + 2 + suites;
        at += 1 + usize::from(bytes[at]) + 2;
        let mut has_session = false;
        while at < bytes.len() {
            has_session |= number(at) == PRE_SHARED_KEY;
            at += 4 + number(at + 2);
        }
        Self {
            by: by(&vec![0; suites]),
            has_session,
        }
    }

    async fn peek(stream: &TcpStream) -> io::Result<Self> {
        let mut seen = vec![0; 2048];
        loop {
            let count = stream.peek(&mut seen).await?;
            let whole = 5 + usize::from(u16::from_be_bytes([seen[3], seen[4]]));
            if count > 5 && count >= whole {
                return Ok(Self::read(&seen[..whole]));
            }
        }
    }
}

/// A server that is shy of some hellos, which `bench` is to probe.
async fn shy_server(
    bench: &mut Bench,
    script: Vec<crate::server::Do>,
    manner: Shy,
    is_shy_of: fn(&Hello) -> bool,
) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    bench.target.port = listener.local_addr().unwrap().port();
    bench.target.tls_timeout = Duration::from_millis(300);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                if is_shy_of(&Hello::peek(&stream).await?) {
                    match manner {
                        Shy::Silent => std::future::pending::<()>().await,
                        Shy::Resets => stream.set_zero_linger()?,
                    }
                    return Ok(());
                }
                serve(stream, script).await
            });
        }
    })
}

#[tokio::test]
async fn a_server_that_is_silent_to_rustls_is_left_to_openssl() {
    let server = identity(Wish::default()).resuming_server(SslVersion::TLS1_3);
    let (_, target, depth, script) = ways(&server).swap_remove(0);
    let mut bench = Bench::new(target, depth, Vec::new()).await;
    let shy = shy_server(&mut bench, script, Shy::Silent, |hello| hello.by == Rustls).await;
    for late in [false, true, false, false] {
        let outcome = bench.probe().await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(outcome.elapsed >= bench.target.tls_timeout, late);
    }
    // There may be no time left to ask again: it is not forgotten.
    bench.sessions.slot = Arc::default();
    let mut good = Vec::new();
    for _ in 0..4 {
        bench.target.connect_timeout = Duration::from_secs(2);
        if good.len() == 1 {
            bench.target.connect_timeout = Duration::from_millis(1);
        }
        good.push(bench.probe().await.result.is_ok());
    }
    assert_eq!(good, [true, false, true, true]);

    // Where it was once met with success, the silence is the server's.
    bench.sessions = quick_sessions().await;
    let reason = bench.probe().await.result.unwrap_err().to_string();
    assert_eq!(reason, "tls: timed out after 300ms");
    assert_eq!(bench.probe().await.result, Ok(()), "by OpenSSL");
    shy.abort();
}

/// Rustls goes on without them.
#[tokio::test]
async fn a_server_that_fails_at_sessions_of_rustls_is_offered_no_more() {
    let hellos = Hellos::default();
    let server = identity(Wish::default()).lax_server(&[], |context| hellos.note(context, None));
    let (_, target, depth, script) = ways(&server).swap_remove(0);
    for (manner, failing) in [(Shy::Silent, 1), (Shy::Resets, 3)] {
        let mut bench = Bench::new(target.clone(), depth, Vec::new()).await;
        let is_shy_of = |hello: &Hello| hello.by == Rustls && hello.has_session;
        let shy = shy_server(&mut bench, script.clone(), manner, is_shy_of).await;
        for _ in 0..12 {
            assert!(!bench.resumes().await, "{manner:?}");
        }
        // Two good hellos, and in the third probe a bad one that is not counted and another by OpenSSL.
        let mut expected = vec![Openssl, Rustls];
        expected.extend([Openssl, Rustls].repeat(failing));
        expected.resize(12, Rustls);
        assert_eq!(hellos.take(), expected, "{manner:?}");
        shy.abort();
    }
}

/// OpenSSL hands out a good answer before it looks at what came in one piece with it, rustls after
/// that.
#[tokio::test]
async fn what_rustls_stumbles_over_after_a_handshake_is_looked_at_by_openssl() {
    let hellos = Hellos::default();
    let server = identity(Wish::default()).lax_server(&[], |context| hellos.note(context, None));
    let (name, target, depth, mut script) = ways(&server).swap_remove(1);
    let last = script.iter_mut().rev().find_map(|step| match step {
        Say(_) => Some(step),
        _ => None,
    });
    let last = last.unwrap_or_else(|| panic!("{name} ends with an answer"));
    if let Say(answer) = last {
        // An alert in the clear (RFC 8446 §6).
        *last = Blurt(answer.clone(), b"\x15\x03\x03\x00\x02\x02\x50".to_vec());
    }
    let bench = Bench::new(target, depth, script).await;
    for _ in 0..4 {
        assert_eq!(bench.probe().await.result, Ok(()));
    }
    let expected = [Openssl, Rustls, Openssl, Openssl, Openssl];
    assert_eq!(hellos.take(), expected);
}

/// Whatever a server sends, what is said of it does not depend on who asked; and rustls refuses it
/// by itself, rather than to leave it to others.
#[tokio::test]
async fn both_are_of_one_mind_about_certificates() {
    let plain = Wish::default;
    let ca = |wish: Wish<'_>| {
        identity(Wish {
            name: "inner",
            ca: true,
            ..wish
        })
    };
    let inner = ca(plain());
    let weak = ca(Wish {
        key: Key::Rsa(1024),
        ..plain()
    });
    let no_ca = identity(Wish {
        name: "no authority",
        ..plain()
    });
    let below = |issuer| {
        identity(Wish {
            issuer: Some(issuer),
            ..plain()
        })
    };
    let named = |valid_for| {
        identity(Wish {
            valid_for,
            ..plain()
        })
    };
    let same: fn(&mut Target) = |_| ();
    let skipping: fn(&mut Target) = |target| target.tls_skip_verify = true;
    let at_example: fn(&mut Target) =
        |target| target.tls_server_name = Some("a.example.org".into());
    let below_example: fn(&mut Target) =
        |target| target.tls_server_name = Some("b.a.example.org.".into());
    let expired = identity(Wish {
        from: -30,
        until: -2,
        ..plain()
    });
    let early = identity(Wish { from: 2, ..plain() });
    let self_signed = Identity::new(&plain());
    let for_clients = identity(Wish {
        for_clients: true,
        ..plain()
    });
    let old_digest = identity(Wish {
        signed_over: MessageDigest::sha1(),
        ..plain()
    });
    let none: &[&Identity] = &[];
    for (name, leaf, chain, change, is_accepted) in [
        ("good", &identity(plain()), none, same, true),
        ("chain", &below(&inner), &[&inner], same, true),
        (
            "chain with its root",
            &below(&inner),
            &[root().0, &inner],
            same,
            true,
        ),
        (
            "chain without its middle",
            &below(&inner),
            none,
            same,
            false,
        ),
        (
            "authority with a small key",
            &below(&weak),
            &[&weak],
            same,
            false,
        ),
        (
            "issuer that is no authority",
            &below(&no_ca),
            &[&no_ca],
            same,
            false,
        ),
        ("self-signed", &self_signed, none, same, false),
        (
            "self-signed, not verified",
            &self_signed,
            none,
            skipping,
            true,
        ),
        ("expired", &expired, none, same, false),
        ("expired, not verified", &expired, none, skipping, true),
        ("not yet valid", &early, none, same, false),
        ("for clients", &for_clients, none, same, false),
        ("old digest", &old_digest, none, same, false),
        ("another address", &named("127.0.0.2"), none, same, false),
        (
            "a name for an address",
            &named("localhost"),
            none,
            same,
            false,
        ),
        (
            "an address for a name",
            &identity(plain()),
            none,
            at_example,
            false,
        ),
        ("the name", &named("a.example.org"), none, at_example, true),
        (
            "the name with a dot",
            &named("b.a.example.org"),
            none,
            below_example,
            true,
        ),
        (
            "a wildcard",
            &named("*.example.org"),
            none,
            at_example,
            true,
        ),
        (
            "a wildcard for two labels",
            &named("*.example.org"),
            none,
            below_example,
            false,
        ),
        (
            "half a wildcard",
            &named("*a.example.org"),
            none,
            at_example,
            false,
        ),
        (
            "another name",
            &named("c.example.org"),
            none,
            at_example,
            false,
        ),
    ] {
        let hellos = Hellos::default();
        let mut server = knocked_at(leaf, chain, |context| hellos.note(context, None)).await;
        change(&mut server.target);
        server.sessions = Resumption {
            slot: Arc::default(),
            full_every: Duration::ZERO,
        };
        let by_openssl = server.probe().await;
        assert_eq!(hellos.take(), [Openssl], "{name}");
        assert_eq!(
            by_openssl.result.is_ok(),
            is_accepted,
            "{name}: {by_openssl:?}"
        );

        server.sessions = quick_sessions().await;
        let by_rustls = server.probe().await;
        let expected: &[By] = if is_accepted {
            &[Rustls]
        } else {
            &[Rustls, Openssl]
        };
        assert_eq!(hellos.take(), expected, "{name}");
        assert_eq!(by_rustls.result, by_openssl.result, "{name}");
        assert_eq!(by_rustls.tls, by_openssl.tls, "{name}");
    }
}

/// RFC 8446 §6.1.
#[tokio::test]
async fn rustls_says_goodbye_and_answers_one() {
    let hellos = Hellos::default();
    let server = identity(Wish::default()).lax_server(&[], |context| hellos.note(context, None));
    // Who only knocks resets the connection after it.
    for (name, target, depth, mut script) in ways(&server).into_iter().skip(1) {
        script.push(Part);
        let bench = Bench::new(target, depth, script).await;
        for _ in 0..3 {
            assert_eq!(bench.probe().await.result, Ok(()), "{name}");
        }
        assert_eq!(hellos.take(), [Openssl, Rustls, Rustls], "{name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.faults.load(SeqCst), 0, "{name}");
    }
}
