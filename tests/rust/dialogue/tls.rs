//! Dialogues under TLS, from the first byte and after STARTTLS, with servers that are well
//! and with those whose TLS or certificate is not.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use nauthilus_backend::engine::probe::{
    Begun, Depth, LingeringConnections, Prober, ReusableSockets,
};
use nauthilus_backend::engine::target::{Protocol, Target, TlsMode};
use openssl::ssl::{SslContext, SslVerifyMode, SslVersion};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bench::{Bench, ways};
use crate::pki::{Identity, Wish, root};
use crate::server::Do::{Close, Drip, Flood, Hold, Part, Read, ReadBytes, ReadHead, Reset, Tls};
use crate::server::Ends::{Early, Late};
use crate::server::{Case, Do, Ends, case, check, say, serve};
use crate::support::{With, target};

pub(crate) fn trusting(target: Target) -> Target {
    Target {
        tls_ca_file: Some(root().1),
        ..target
    }
}

pub(crate) fn implicit(protocol: Protocol) -> Target {
    trusting(Target {
        tls_mode: TlsMode::Implicit,
        ..target(protocol).login()
    })
}

pub(crate) fn starttls(protocol: Protocol) -> Target {
    trusting(target(protocol).login().starttls())
}

fn good() -> SslContext {
    let (root, _) = root();
    Identity::new(&Wish {
        issuer: Some(root),
        ..Wish::default()
    })
    .server(&[])
}

fn resuming() -> SslContext {
    let (root, _) = root();
    Identity::new(&Wish {
        issuer: Some(root),
        ..Wish::default()
    })
    .resuming_server(SslVersion::TLS1_3)
}

/// What a good server sends up to its agreement to STARTTLS.
pub(crate) fn agreement(protocol: Protocol) -> Vec<Do> {
    let (greeting, list, agreed) = match protocol {
        Protocol::Imap => (
            "* OK [CAPABILITY STARTTLS] hello\r\n",
            None,
            "a1 OK begin\r\n",
        ),
        Protocol::Pop3 => ("+OK\r\n", Some("+OK\r\nSTLS\r\n.\r\n"), "+OK begin\r\n"),
        Protocol::Sieve => ("\"SASL\" \"\"\r\n\"STARTTLS\"\r\nOK\r\n", None, "OK\r\n"),
        _ => (
            "220 mx\r\n",
            Some("250-mx\r\n250 STARTTLS\r\n"),
            "220 go\r\n",
        ),
    };
    let mut script = vec![say(greeting), Read];
    script.extend(list.map(say));
    script.extend(list.map(|_| Read));
    script.push(say(agreed));
    script
}

/// What a good server sends under TLS, after STARTTLS or from the beginning.
pub(crate) fn under_tls(protocol: Protocol, upgraded: bool) -> Vec<Do> {
    let greeted = !upgraded || protocol == Protocol::Sieve;
    let tag = if upgraded { "a2" } else { "a1" };
    let (greeting, list, done) = match protocol {
        Protocol::Imap => (
            "* OK hello\r\n",
            Some(format!(
                "* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\n{tag} OK\r\n"
            )),
            if upgraded {
                "a3 OK in\r\n"
            } else {
                "a2 OK in\r\n"
            },
        ),
        Protocol::Pop3 => (
            "+OK\r\n",
            Some("+OK\r\nSASL PLAIN\r\n.\r\n".to_owned()),
            "+OK\r\n",
        ),
        Protocol::Sieve => ("\"SASL\" \"PLAIN\"\r\nOK\r\n", None, "OK\r\n"),
        Protocol::Http => return vec![ReadHead, say("HTTP/1.1 204 No Content\r\n\r\n")],
        _ => (
            "220 mx\r\n",
            Some("250-mx\r\n250 AUTH PLAIN\r\n".to_owned()),
            "235 in\r\n",
        ),
    };
    let mut script = Vec::new();
    if greeted {
        script.push(say(greeting));
    }
    if let Some(list) = list {
        script.extend([Read, say(list)]);
    }
    if protocol == Protocol::Pop3 {
        script.extend([Read, say("+\r\n")]);
    }
    script.extend([Read, say(done), Read]);
    script
}

#[tokio::test]
async fn all_dialogues_run_under_tls() {
    let server = good();
    let mut cases = Vec::new();
    for protocol in Protocol::ALL {
        let mut script = vec![Tls(server.clone())];
        script.extend(under_tls(protocol, false));
        cases.push(case("implicit", implicit(protocol), script, Early, ""));
        if protocol != Protocol::Http {
            let mut script = agreement(protocol);
            script.push(Tls(server.clone()));
            script.extend(under_tls(protocol, true));
            cases.push(case("starttls", starttls(protocol), script, Early, ""));
        }
    }
    check(cases).await;
}

/// A TLS listener that fails in some way, both where TLS begins with the first byte and after
/// STARTTLS.
fn both(name: &str, change: fn(&mut Target), does: &[Do], ends: Ends, reason: &str) -> Vec<Case> {
    let mut first = implicit(Protocol::Imap);
    change(&mut first);
    let mut second = starttls(Protocol::Smtp);
    change(&mut second);
    let mut script = agreement(Protocol::Smtp);
    script.extend_from_slice(does);
    vec![
        case(&format!("{name}, implicit"), first, does, ends, reason),
        case(&format!("{name}, starttls"), second, script, ends, reason),
    ]
}

/// The first bytes of a ClientHello: record header and handshake header.
const HELLO: usize = 9;

#[tokio::test]
async fn broken_handshakes() {
    let same = |_: &mut Target| ();
    let hello = ReadBytes(HELLO);
    // The header of a ServerHello whose 80 bytes never come.
    let part = say(b"\x16\x03\x03\x00\x54\x02\x00\x00\x50\x03\x03");
    let ancient = Identity::new(&Wish {
        issuer: Some(root().0),
        ..Wish::default()
    })
    .ancient_server();
    let mut cases = Vec::new();
    for (name, does, ends, reason) in [
        ("silence", vec![Hold], Late, "tls: timed out after 400ms"),
        (
            "stops in mid-handshake",
            vec![hello.clone(), part.clone(), Hold],
            Late,
            "tls: timed out after 400ms",
        ),
        (
            "closes in mid-handshake",
            vec![hello.clone(), part.clone(), Close],
            Early,
            "tls: connection closed during the handshake*",
        ),
        (
            "closes at once",
            vec![hello.clone(), Close],
            Early,
            "tls: connection closed during the handshake*",
        ),
        (
            "resets in mid-handshake",
            vec![hello.clone(), part, Reset],
            Early,
            "tls: connection reset during the handshake*",
        ),
        (
            "a byte at a time",
            vec![
                hello.clone(),
                Drip(vec![0x16, 3, 3, 0, 0x54, 2, 0, 0, 0x50, 3, 3]),
                Hold,
            ],
            Late,
            "tls: timed out after 400ms",
        ),
        (
            "clear text",
            vec![hello.clone(), say("500 what is that?\r\n"), Hold],
            Early,
            "tls: the server does not speak TLS here (it answered in clear text)*",
        ),
        (
            "garbage",
            vec![hello.clone(), say([0xa5; 64]), Hold],
            Early,
            "tls: *",
        ),
        (
            "an endless handshake",
            // Warnings for ever: records that are legal one by one.
            vec![
                hello.clone(),
                Flood(b"\x15\x03\x03\x00\x02\x01\x5a".repeat(100)),
                Hold,
            ],
            Early,
            "tls: *",
        ),
        (
            "TLS 1.0 only",
            vec![Tls(ancient), Hold],
            Early,
            "tls: the server offers no TLS version of 1.2 or newer",
        ),
    ] {
        cases.extend(both(name, same, &does, ends, reason));
    }
    check(cases).await;
}

#[tokio::test]
async fn certificates() {
    let (root, _) = root();
    let same: fn(&mut Target) = |_| ();
    let skipping: fn(&mut Target) = |t| t.tls_skip_verify = true;
    let named: fn(&mut Target) = |t| t.tls_server_name = Some("mail.example.org.".into());
    let leaf = |wish: Wish<'_>| {
        Identity::new(&Wish {
            issuer: Some(root),
            ..wish
        })
    };
    let self_signed = Identity::new(&Wish::default()).server(&[]);
    let expired = leaf(Wish {
        from: -30,
        until: -2,
        ..Wish::default()
    })
    .server(&[]);
    let early = leaf(Wish {
        from: 2,
        ..Wish::default()
    })
    .server(&[]);
    let other = leaf(Wish {
        valid_for: "mail.example.org",
        ..Wish::default()
    })
    .server(&[]);

    let ca = |name, issuer| {
        Identity::new(&Wish {
            name,
            issuer: Some(issuer),
            ca: true,
            ..Wish::default()
        })
    };
    let outer = ca("outer", root);
    let inner = ca("inner", &outer);
    let below = Identity::new(&Wish {
        issuer: Some(&inner),
        ..Wish::default()
    });

    let mut cases = Vec::new();
    for (name, change, context, reason) in [
        (
            "self-signed",
            same,
            &self_signed,
            "tls: certificate not trusted: *",
        ),
        (
            "expired",
            same,
            &expired,
            "tls: certificate has expired (on 20*",
        ),
        (
            "not yet valid",
            same,
            &early,
            "tls: certificate not trusted: certificate is not yet valid",
        ),
        (
            "wrong name",
            same,
            &other,
            "tls: certificate is not valid for 127.0.0.1; it names *",
        ),
        (
            "chain without its middle",
            same,
            &below.server(&[&inner]),
            "tls: certificate not trusted: *",
        ),
    ] {
        cases.extend(both(
            name,
            change,
            &[Tls(context.clone()), Hold],
            Early,
            reason,
        ));
    }
    // A certificate that is valid, or that is not verified, lets the dialogue begin.
    for (name, change, context) in [
        ("self-signed, not verified", skipping, &self_signed),
        ("expired, not verified", skipping, &expired),
        ("the name that was configured", named, &other),
        ("chain in order", same, &below.server(&[&inner, &outer])),
        ("chain out of order", same, &below.server(&[&outer, &inner])),
    ] {
        let does = [Tls(context.clone()), Close];
        let mut pair = both(name, change, &does, Early, "greeting: connection closed");
        pair[1].reason = "capability: connection closed".into();
        cases.extend(pair);
    }
    check(cases).await;
}

#[tokio::test]
async fn faults_under_tls() {
    let tls = || Tls(good());
    let mut silent = agreement(Protocol::Sieve);
    silent.extend([tls(), Hold]);
    let mut reset = agreement(Protocol::Pop3);
    reset.extend([tls(), Read, Reset]);
    let mut forgetful = agreement(Protocol::Smtp);
    forgetful.extend([tls(), Read, say("250 mx\r\n"), Hold]);
    check(vec![
        case(
            "the list does not come again",
            starttls(Protocol::Sieve),
            silent,
            Late,
            "capability: timed out after 400ms",
        ),
        case(
            "reset",
            starttls(Protocol::Pop3),
            reset,
            Early,
            "capability: connection reset",
        ),
        case(
            "no login offered any more",
            starttls(Protocol::Smtp),
            forgetful,
            Early,
            "auth: no usable login mechanism offered (offered: none)",
        ),
        case(
            "endless lines",
            implicit(Protocol::Lmtp),
            [tls(), Flood(b"220-mx\r\n".repeat(100))],
            Early,
            "greeting: the server sent more than 64 KiB",
        ),
        case(
            "an endless line, in records of its own for each byte",
            implicit(Protocol::Pop3),
            [tls(), Flood(b"x".to_vec())],
            Early,
            "greeting: *",
        ),
        case(
            "closes without close_notify",
            implicit(Protocol::Imap),
            [
                tls(),
                say("* OK hello\r\n"),
                Read,
                say("* CAPABILITY X\r\n"),
                Close,
            ],
            Early,
            "capability: connection closed",
        ),
    ])
    .await;
}

fn asking(version: SslVersion, mode: SslVerifyMode, tickets: usize) -> SslContext {
    let (root, _) = root();
    let leaf = Identity::new(&Wish {
        issuer: Some(root),
        ..Wish::default()
    });
    leaf.lax_server(&[], |context| {
        context.set_min_proto_version(Some(version)).unwrap();
        context.set_max_proto_version(Some(version)).unwrap();
        context.set_verify(mode);
        context.set_num_tickets(tickets).unwrap();
    })
}

#[tokio::test]
async fn a_server_that_requires_a_certificate_of_the_client_is_dead_in_each_version() {
    let required = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    for (version, reason) in [
        (
            SslVersion::TLS1_2,
            "tls: handshake failed: sslv3 alert handshake failure; it asked for a client certificate (tls_cert_file, tls_key_file)",
        ),
        (
            SslVersion::TLS1_3,
            "tls: the server requires a client certificate (tls_cert_file, tls_key_file)",
        ),
    ] {
        for (name, target, depth, script) in ways(&asking(version, required, 2)) {
            let bench = Bench::new(target, depth, script).await;
            for _ in 0..2 {
                let error = bench.probe().await.result.unwrap_err().to_string();
                assert_eq!(error, reason, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_does_without_the_certificate_it_asked_for_is_alive() {
    for tickets in [2, 0] {
        let server = asking(SslVersion::TLS1_3, SslVerifyMode::PEER, tickets);
        for (name, target, depth, script) in ways(&server) {
            let bench = Bench::new(target, depth, script).await;
            for _ in 0..3 {
                assert_eq!(bench.probe().await.result, Ok(()), "{name} {tickets}");
            }
        }
    }
}

/// As nginx does with `ssl_verify_client on`: the handshake succeeds, and the request is refused.
#[tokio::test]
async fn a_refusal_after_the_handshake_names_the_certificate_that_was_asked_for() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let server = asking(version, SslVerifyMode::PEER, 2);
        let script = vec![Tls(server), ReadHead, say("HTTP/1.1 400 No\r\n\r\n"), Close];
        let bench = Bench::new(implicit(Protocol::Http), Depth::Deep, script).await;
        // The later probes resume the session, for which the server does not ask for the
        // certificate again.
        for _ in 0..3 {
            let error = bench.probe().await.result.unwrap_err().to_string();
            let hint = "; it asked for a client certificate (tls_cert_file, tls_key_file)";
            assert!(
                error.starts_with("http: ") && error.ends_with(hint),
                "{error}"
            );
        }
    }
}

/// A connect probe of TLS, or with a PROXY header, ends with FIN: `Part` and `Hold` fail at a reset.
#[tokio::test]
async fn a_connect_probe_that_sent_something_ends_without_a_reset() {
    const HEADER: usize = 16;
    let (_, tls, depth, _) = ways(&good()).swap_remove(0);
    let header = Target {
        haproxy_v2: true,
        ..target(Protocol::Imap)
    };
    let late = || Do::Wait(Duration::from_millis(100));
    let scripts = [
        (tls.clone(), vec![Tls(good()), Part]),
        // Whatever the server says meanwhile.
        (tls, vec![Tls(good()), say("* OK hello\r\n"), late(), Part]),
        (header.clone(), vec![ReadBytes(HEADER), Hold]),
        (
            header,
            vec![ReadBytes(HEADER), say("* OK hello\r\n"), late(), Hold],
        ),
    ];
    for (at, (target, script)) in scripts.into_iter().enumerate() {
        for room in [0, 1] {
            // A server that stands still for longer than a probe waits for its end is met by a
            // reset: the machine may do that to ours, but not each time.
            let mut served = Ok(());
            for _ in 0..5 {
                served = ended_connect_probe(target.clone(), depth, &script, room).await;
                if served.is_ok() {
                    break;
                }
            }
            assert!(served.is_ok(), "{at} {room}: {served:?}");
        }
    }
}

/// Makes one probe of a server of its own, with room for so many lingering connections; how the
/// server ended.
async fn ended_connect_probe(
    mut target: Target,
    depth: Depth,
    script: &[Do],
    room: usize,
) -> io::Result<()> {
    let lingering = LingeringConnections::default();
    lingering.set_room(room);
    let server = server_of(&mut target, script.to_vec()).await;
    let prober = Prober::default();
    let Begun::Underway(probe) = prober.begin(&target, depth, &mut ReusableSockets::default())
    else {
        panic!("what is sent takes its time");
    };
    let outcome = prober
        .finish(probe, &target, depth, None, Some(&lingering))
        .await;
    assert_eq!(outcome.result, Ok(()), "{target:?}");
    assert_eq!(lingering.count(), room);
    let ended = async {
        while lingering.count() > 0 {
            lingering.close_finished();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.await.unwrap()
    };
    timeout(Duration::from_secs(20), ended)
        .await
        .expect("an end")
}

/// Whole dialogues. The last line that the server reads is the client's LOGOUT or QUIT.
fn whole_dialogues() -> [(Target, Vec<Do>); 2] {
    [
        (
            implicit(Protocol::Imap),
            [vec![Tls(good())], under_tls(Protocol::Imap, false)].concat(),
        ),
        (
            starttls(Protocol::Smtp),
            [
                agreement(Protocol::Smtp),
                vec![Tls(good())],
                under_tls(Protocol::Smtp, true),
            ]
            .concat(),
        ),
    ]
}

/// A server for one connection.
async fn server_of(target: &mut Target, script: Vec<Do>) -> JoinHandle<io::Result<()>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    target.port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        serve(stream, script).await
    })
}

/// RFC 8446 §6.1: each side sends `close_notify`, whichever was first.
#[tokio::test]
async fn a_close_notify_is_answered() {
    for (mut target, script) in whole_dialogues() {
        let server = server_of(&mut target, [script, vec![Part]].concat()).await;
        let outcome = Prober::default().run(&target, Depth::Deep, None).await;
        assert_eq!(outcome.result, Ok(()));
        server.await.unwrap().unwrap();
    }
}

/// RFC 8446 §6.1, on a resumed session.
#[tokio::test]
async fn a_resumed_session_sends_close_notify_and_answers_one() {
    // A connect probe aborts instead of closing gracefully.
    for (name, target, depth, mut script) in ways(&resuming()).into_iter().skip(1) {
        script.push(Part);
        let bench = Bench::new(target, depth, script).await;
        assert!(!bench.resumes().await, "{name}");
        bench.probes_until_resumed().await;
        bench.probes_until_resumed().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.faults.load(SeqCst), 0, "{name}");
    }
}

/// A good answer stays good, whatever arrives in the same packet.
#[tokio::test]
async fn an_alert_in_the_clear_behind_a_good_answer_changes_nothing() {
    let (name, target, depth, mut script) = ways(&resuming()).swap_remove(1);
    let last = script.iter_mut().rev().find_map(|step| match step {
        Do::Say(_) => Some(step),
        _ => None,
    });
    let last = last.unwrap_or_else(|| panic!("{name} ends with an answer"));
    if let Do::Say(answer) = last {
        // RFC 8446 §6: a fatal alert, `internal_error`.
        *last = Do::Blurt(answer.clone(), b"\x15\x03\x03\x00\x02\x02\x50".to_vec());
    }
    let bench = Bench::new(target, depth, script).await;
    for _ in 0..3 {
        assert_eq!(bench.probe().await.result, Ok(()));
    }
}

/// A probe that leaves its graceful close to `lingering`.
async fn probe_and_leave(target: &Target, lingering: &LingeringConnections) {
    let prober = Prober::default();
    let Begun::Underway(probe) = prober.begin(target, Depth::Deep, &mut ReusableSockets::default())
    else {
        panic!("a dialogue takes its time");
    };
    let outcome = prober
        .finish(probe, target, Depth::Deep, None, Some(lingering))
        .await;
    assert_eq!(outcome.result, Ok(()));
}

#[tokio::test]
async fn close_notify_is_sent_at_once_and_the_servers_is_answered_later() {
    const PATIENCE: Duration = Duration::from_secs(20);
    for (mut target, script) in whole_dialogues() {
        let lingering = LingeringConnections::default();
        lingering.set_room(1);
        let server = server_of(&mut target, script.clone()).await;
        probe_and_leave(&target, &lingering).await;
        assert_eq!(lingering.count(), 1);
        let heard = timeout(PATIENCE, server).await;
        heard.expect("sent without waiting").unwrap().unwrap();

        // There is no room for another lingering connection, so the probe itself waits for this
        // one.
        let server = server_of(&mut target, [script.clone(), vec![Part]].concat()).await;
        probe_and_leave(&target, &lingering).await;
        assert_eq!(lingering.count(), 1);
        server.await.unwrap().unwrap();

        let lingering = LingeringConnections::default();
        lingering.set_room(1);
        let server = server_of(&mut target, [script, vec![Part]].concat()).await;
        probe_and_leave(&target, &lingering).await;
        let answer = async {
            while lingering.count() > 0 {
                lingering.close_finished();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.await.unwrap().unwrap();
        };
        timeout(PATIENCE, answer).await.expect("an answer");
    }
}

/// What comes in the clear, in the handshake and under TLS counts together.
#[tokio::test]
async fn the_bound_holds_across_starttls() {
    use nauthilus_backend::engine::probe::transport::READ_LIMIT;
    let half = |last: &str| {
        let mut reply = "250-X\r\n".repeat(READ_LIMIT / 2 / 7);
        reply.push_str(last);
        reply
    };
    let mut script = agreement(Protocol::Smtp);
    script[2] = say(half("250 STARTTLS\r\n"));
    script.extend([Tls(good()), Read, say(half("250 AUTH PLAIN\r\n")), Hold]);
    let reason = "capability: the server sent more than 64 KiB";
    check(vec![case(
        "half and half",
        starttls(Protocol::Smtp),
        script,
        Early,
        reason,
    )])
    .await;
}

/// A server that tells how its connection ended: what it sends is taken, and the client's end is a
/// FIN. Mail and web servers log anything else as an error.
async fn serve_to_the_end(
    listener: TcpListener,
    context: Option<SslContext>,
    is_http: bool,
    sent: Vec<u8>,
) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (tcp, _) = listener.accept().await?;
    let mut stream: Box<dyn nauthilus_backend::engine::probe::transport::Transport> = match context
    {
        None => Box::new(tcp),
        Some(context) => {
            let mut tls = tokio_openssl::SslStream::new(openssl::ssl::Ssl::new(&context)?, tcp)?;
            let accepted = std::pin::Pin::new(&mut tls).accept().await;
            accepted.map_err(io::Error::other)?;
            Box::new(tls)
        }
    };
    let mut read = vec![0; 4096];
    if is_http {
        assert!(stream.read(&mut read).await? > 0);
    }
    // After the client has sent its `close_notify`.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for chunk in sent.chunks(10_000) {
        stream.write_all(chunk).await?;
    }
    stream.flush().await?;
    if is_http {
        stream.shutdown().await?;
    }
    while stream.read(&mut read).await? > 0 {}
    stream.shutdown().await
}

#[tokio::test]
async fn what_still_arrives_at_the_end_is_read_whoever_waits_for_it() {
    let mut page = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    page.resize(2 << 20, b'x');
    let greeting = b"220 mx.example.org ESMTP\r\n".to_vec();
    let under_tls = |protocol| Target {
        tls_mode: TlsMode::Implicit,
        ..trusting(target(protocol))
    };
    let cases = [
        ("smtp", under_tls(Protocol::Smtp), Depth::Connect, greeting),
        ("http", target(Protocol::Http), Depth::Deep, page.clone()),
        ("https", under_tls(Protocol::Http), Depth::Deep, page),
    ];
    for (name, mut target, depth, sent) in cases {
        for lingers in [false, true] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            target.port = listener.local_addr().unwrap().port();
            let context = (target.tls_mode == TlsMode::Implicit).then(good);
            let is_http = target.protocol == Protocol::Http;
            let serving = serve_to_the_end(listener, context, is_http, sent.clone());
            let server = tokio::spawn(serving);
            let lingering = LingeringConnections::default();
            lingering.set_room(1);
            let prober = Prober::default();
            let probe = prober.begin(&target, depth, &mut ReusableSockets::default());
            let Begun::Underway(probe) = probe else {
                panic!("it takes its time");
            };
            let room = lingers.then_some(&lingering);
            let outcome = prober.finish(probe, &target, depth, None, room).await;
            assert_eq!(outcome.result, Ok(()), "{name}");
            while lingering.count() > 0 {
                lingering.close_finished();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let ended = timeout(Duration::from_secs(60), server).await;
            let ended = ended.expect("an end").unwrap();
            assert!(ended.is_ok(), "{name}, lingers {lingers}: {ended:?}");
        }
    }
}
