//! Which certificates, keys and key exchanges of a server are accepted, in a probe that makes a full
//! handshake each time.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use nauthilus_backend::engine::target::Target;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ssl::SslContextBuilder;

use crate::bench::{Bench, ways};
use crate::pki::{Identity, Key, Wish, root};
use crate::server::Do::{Hold, Tls};

fn identity(wish: Wish<'_>) -> Identity {
    Identity::new(&Wish {
        issuer: Some(wish.issuer.unwrap_or(root().0)),
        ..wish
    })
}

/// A server of TLS from the first byte, and connect probes of it.
async fn bench(
    identity: &Identity,
    chain: &[&Identity],
    change: impl FnOnce(&mut SslContextBuilder),
) -> Bench {
    let server = identity.lax_server(chain, change);
    let (_, target, depth, script) = ways(&server).swap_remove(0);
    let mut bench = Bench::new(target, depth, script).await;
    bench.sessions.full_every = Duration::ZERO;
    bench
}

#[tokio::test]
async fn all_usual_keys_and_key_exchanges_are_accepted() {
    let plain = Wish::default;
    let key = |key| Wish { key, ..plain() };
    let ours: fn(&mut SslContextBuilder) = |_| ();
    let groups: fn(&mut SslContextBuilder) = |context| context.set_groups_list("P-384").unwrap();
    for (name, wish, change) in [
        ("P-384", key(Key::Ec(Nid::SECP384R1)), ours),
        ("Ed25519", key(Key::Ed25519), ours),
        ("RSA", key(Key::Rsa(2048)), ours),
        ("P-521", key(Key::Ec(Nid::SECP521R1)), ours),
        // The server asks for a second hello each time (RFC 8446 §4.1.4).
        ("P-384 exchanged", plain(), groups),
    ] {
        let server = bench(&identity(wish), &[], change).await;
        for _ in 0..2 {
            assert_eq!(server.probe().await.result, Ok(()), "{name}");
        }
        assert_eq!(server.met.load(SeqCst), 2, "{name}");
    }
}

#[tokio::test]
async fn a_certificate_is_accepted_if_authority_name_time_and_purpose_are_right() {
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
        let mut server = bench(leaf, chain, |_| ()).await;
        change(&mut server.target);
        let outcome = server.probe().await;
        assert_eq!(outcome.result.is_ok(), is_accepted, "{name}: {outcome:?}");
        // Nothing is repeated: no session was offered.
        assert_eq!(server.met.load(SeqCst), 1, "{name}");
    }
}

/// The verification of a chain is not repeated in each handshake, but what it depends on may change.
#[tokio::test]
async fn a_chain_that_was_accepted_is_refused_once_it_is_not_right_any_more() {
    let plain = Wish::default;
    let good = identity(plain());
    let reason = async |server: &Bench| server.probe().await.result.err().map(|error| error.reason);
    let is_refused = |reason: Option<String>, why| reason.is_some_and(|text| text.starts_with(why));

    let mut first = bench(&good, &[], |_| ()).await;
    for _ in 0..2 {
        assert_eq!(reason(&first).await, None);
    }
    first.target.tls_server_name = Some("a.example.org".into());
    assert!(is_refused(
        reason(&first).await,
        "certificate is not valid for a.example.org"
    ));
    first.target.tls_server_name = None;
    assert_eq!(reason(&first).await, None);

    let self_signed = Identity::new(&plain()).server(&[]);
    let second = first.succeeded_by(vec![Tls(self_signed), Hold]).await;
    assert!(is_refused(
        reason(&second).await,
        "certificate not trusted: self"
    ));
    let third = second.succeeded_by(vec![Tls(good.server(&[])), Hold]).await;
    assert_eq!(reason(&third).await, None);
}

#[tokio::test]
async fn a_chain_that_was_accepted_is_refused_without_its_middle() {
    let ca = || {
        identity(Wish {
            name: "inner",
            ca: true,
            ..Wish::default()
        })
    };
    let (inner, other) = (ca(), ca());
    let leaf = identity(Wish {
        issuer: Some(&inner),
        ..Wish::default()
    });
    let server = bench(&leaf, &[&inner], |_| ()).await;
    for (chain, is_accepted) in [
        (&[&inner][..], true),
        (&[], false),
        (&[&other], false),
        (&[&inner, &other], true),
        (&[&inner], true),
    ] {
        assert_eq!(server.probe().await.result, Ok(()));
        let next = server.succeeded_by(vec![Tls(leaf.server(chain)), Hold]);
        let outcome = next.await.probe().await;
        let reason = outcome.result.err().map(|error| error.reason);
        assert_eq!(reason.is_none(), is_accepted, "{reason:?}");
        assert!(reason.is_none_or(|text| text.starts_with("certificate not trusted: ")));
    }
}

#[tokio::test]
async fn a_chain_that_was_accepted_is_refused_once_an_issuer_has_expired() {
    let seconds = 2;
    // A machine that stands still for a moment makes the first probe come too late.
    for _ in 0..10 {
        let inner = identity(Wish {
            name: "inner",
            ca: true,
            ends_in: Some(seconds),
            ..Wish::default()
        });
        let leaf = identity(Wish {
            issuer: Some(&inner),
            ..Wish::default()
        });
        let server = bench(&leaf, &[&inner], |_| ()).await;
        if server.probe().await.result.is_ok() {
            tokio::time::sleep(Duration::from_secs(seconds.unsigned_abs())).await;
            let refused = server.probe().await.result.unwrap_err();
            assert_eq!(
                refused.reason,
                "the certificate of an issuer in the chain has expired"
            );
            return;
        }
    }
    panic!("no probe came in time");
}
