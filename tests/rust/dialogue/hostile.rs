//! Servers that break off, stall, flood or lie, over TCP and through the whole probe: each
//! probe ends in time, with the stage it had reached and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target, TlsMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::Do::{Close, Drip, Flood, Hold, Ignore, Read, ReadBytes, ReadHead, Reset, Wait};
use crate::server::Ends::{Early, Late};
use crate::server::{Do, Ends, case, check, say};
use crate::support::{Endless, With, talk_to, target};

/// What the reason ends with where a server sends nothing at all.
const WAITS_FOR_HEADER: &str = "; if the listener expects the PROXY header, set haproxy_v2";

/// One turn of a good server: what it waits for, and what it then says at which stage.
struct Turn {
    reads: Option<Do>,
    stage: &'static str,
    says: &'static str,
}

const fn turn(reads: Option<Do>, stage: &'static str, says: &'static str) -> Turn {
    Turn { reads, stage, says }
}

/// A login that works, with and without STARTTLS (after which TLS would begin).
fn conversations() -> Vec<(Target, Vec<Turn>)> {
    let read = || Some(Read);
    let mut all = vec![
        (
            target(Protocol::Imap).login(),
            vec![
                turn(None, "greeting", "* OK hello\r\n"),
                turn(
                    read(),
                    "capability",
                    "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\na1 OK done\r\n",
                ),
                turn(read(), "auth", "a2 OK in\r\n"),
            ],
        ),
        (
            target(Protocol::Imap).login().starttls(),
            vec![
                turn(
                    None,
                    "greeting",
                    "* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n",
                ),
                turn(read(), "starttls", "a1 OK begin\r\n"),
            ],
        ),
        (
            target(Protocol::Pop3).login(),
            vec![
                turn(None, "greeting", "+OK hello\r\n"),
                turn(read(), "capability", "+OK list\r\nSASL LOGIN\r\n.\r\n"),
                turn(read(), "auth", "+ VXNlcm5hbWU6\r\n"),
                turn(read(), "auth", "+ UGFzc3dvcmQ6\r\n"),
                turn(read(), "auth", "+OK in\r\n"),
            ],
        ),
        (
            target(Protocol::Pop3).login().starttls(),
            vec![
                turn(None, "greeting", "+OK hello\r\n"),
                turn(read(), "capability", "+OK list\r\nSTLS\r\n.\r\n"),
                turn(read(), "starttls", "+OK begin\r\n"),
            ],
        ),
        (
            target(Protocol::Sieve).login(),
            vec![
                turn(
                    None,
                    "greeting",
                    "\"IMPLEMENTATION\" \"x\"\r\n\"SASL\" \"PLAIN\"\r\nOK\r\n",
                ),
                turn(read(), "auth", "OK in\r\n"),
            ],
        ),
        (
            target(Protocol::Sieve).login().starttls(),
            vec![
                turn(
                    None,
                    "greeting",
                    "\"IMPLEMENTATION\" \"x\"\r\n\"STARTTLS\"\r\nOK\r\n",
                ),
                turn(read(), "starttls", "OK begin\r\n"),
            ],
        ),
        (
            target(Protocol::Http).login(),
            vec![turn(
                Some(ReadHead),
                "http",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            )],
        ),
    ];
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        all.push((
            target(protocol).login(),
            vec![
                turn(None, "greeting", "220-mx\r\n220 hello\r\n"),
                turn(read(), "capability", "250-mx\r\n250 AUTH PLAIN\r\n"),
                turn(read(), "auth", "235 2.7.0 in\r\n"),
            ],
        ));
        all.push((
            target(protocol).login().starttls(),
            vec![
                turn(None, "greeting", "220 hello\r\n"),
                turn(read(), "capability", "250-mx\r\n250 STARTTLS\r\n"),
                turn(read(), "starttls", "220 begin\r\n"),
            ],
        ));
    }
    all
}

/// What a server may do in place of its turn, and how the probe then ends; `{}` in the reason
/// stands for the stage.
fn faults(says: &str) -> Vec<(&'static str, Vec<Do>, Ends, &'static str)> {
    let half = &says[..says.find('\r').unwrap_or(says.len()) / 2];
    vec![
        ("close", vec![Close], Early, "{}: connection closed"),
        (
            "close in mid-line",
            vec![say(half), Close],
            Early,
            "{}: connection closed in the middle of a line",
        ),
        ("reset", vec![Reset], Early, "{}: connection reset"),
        ("silence", vec![Hold], Late, "{}: timed out after 400ms"),
        (
            "silence in mid-line",
            vec![say(half), Hold],
            Late,
            "{}: timed out after 400ms",
        ),
        (
            "byte by byte",
            vec![Drip(vec![b'x'; 64]), Hold],
            Late,
            "{}: timed out after 400ms",
        ),
        (
            "endless line",
            vec![Flood(vec![b'x'; 4096])],
            Early,
            "{}: line longer than 8192 bytes: xxx*",
        ),
        (
            "NUL",
            vec![say(b"\0\x01\x02\r\n"), Hold],
            Early,
            "{}: NUL in ...",
        ),
        (
            "binary",
            vec![say(b"\xff\xfe\x80\x1b[31m\r\n"), Hold],
            Early,
            "{}: unexpected reply: ....[31m",
        ),
        (
            "empty lines",
            vec![say("\r\n\r\n"), Hold],
            Early,
            "{}: unexpected*",
        ),
    ]
}

/// Every fault at every turn of every conversation.
#[tokio::test]
async fn faults_at_every_step() {
    let mut cases = Vec::new();
    for (target, turns) in conversations() {
        for (at, broken) in turns.iter().enumerate() {
            for (fault, instead, ends, reason) in faults(broken.says) {
                let mut script = Vec::new();
                for good in &turns[..at] {
                    script.extend(good.reads.clone());
                    script.push(say(good.says));
                }
                script.extend(broken.reads.clone());
                script.extend(instead);
                let reason = match fault {
                    // The reset may come before the probe sees that the connection is established.
                    "reset" if at == 0 && broken.reads.is_none() => {
                        format!("connect: connection reset\n{}", broken.stage)
                            + ": connection reset"
                            + WAITS_FOR_HEADER
                    }
                    "close" | "reset" | "silence" if at == 0 => {
                        reason.replace("{}", broken.stage) + WAITS_FOR_HEADER
                    }
                    _ if broken.stage == "auth" && reason.contains("timed out") => {
                        reason.replace("{}", "auth")
                            + " (servers delay the answer to a wrong password)"
                    }
                    _ => reason.replace("{}", broken.stage),
                };
                cases.push(case(
                    &format!("{fault} at step {at}, {}", broken.stage),
                    target.clone(),
                    script,
                    ends,
                    &reason,
                ));
            }
        }
    }
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    check(cases).await;
}

/// The conversations above are good when nothing goes wrong, even where the server closes before
/// our LOGOUT or QUIT, does not answer it, or answers it without end.
#[tokio::test]
async fn an_end_spoils_nothing() {
    let mut cases = Vec::new();
    for (target, turns) in conversations() {
        if turns.iter().any(|t| t.stage == "starttls") {
            continue;
        }
        for (end, does) in [
            ("close", Close),
            ("reset", Reset),
            ("silence", Hold),
            ("a flood", Flood(b"* BYE for ever\r\n".to_vec())),
        ] {
            let mut script = Vec::new();
            for turn in &turns {
                script.extend(turn.reads.clone());
                script.push(say(turn.says));
            }
            script.extend([Read, does]);
            cases.push(case(
                &format!("{end} after the login"),
                target.clone(),
                script,
                Early,
                "",
            ));
        }
    }
    check(cases).await;
}

#[tokio::test]
async fn floods_of_what_is_legal_are_bounded() {
    let flood = |first: &str, again: &str| vec![say(first), Flood(again.repeat(100).into_bytes())];
    let after = |greeting: &str, mut then: Vec<Do>| {
        then.splice(0..0, [say(greeting), Read]);
        then
    };
    let too_much = |stage: &str| format!("{stage}: the server sent more than 64 KiB");
    let get = |then: Vec<Do>| [vec![ReadHead], then].concat();
    let cases = vec![
        (
            target(Protocol::Imap),
            flood(
                "",
                "* OK Waiting for authentication process to respond..\r\n",
            ),
            too_much("greeting"),
        ),
        (
            target(Protocol::Imap),
            after("* OK hello\r\n", flood("", "* OK still alive\r\n")),
            too_much("capability"),
        ),
        (
            target(Protocol::Imap),
            after("* OK hello\r\n", flood("", "* X {3}\r\nabc\r\n")),
            too_much("capability"),
        ),
        (
            target(Protocol::Imap),
            after("* OK hello\r\n", flood("* X {60000}\r\n", "x")),
            "capability: *".to_owned(),
        ),
        (
            target(Protocol::Imap),
            after("* OK hello\r\n", flood("* X {4294967296}\r\n", "x")),
            "capability: literal of 4294967296 bytes, past the 64 KiB that are read".to_owned(),
        ),
        (
            target(Protocol::Pop3),
            after("+OK\r\n", flood("+OK\r\n", "X-SOMETHING\r\n")),
            too_much("capability"),
        ),
        (
            target(Protocol::Smtp),
            flood("", "220-welcome\r\n"),
            too_much("greeting"),
        ),
        (
            target(Protocol::Smtp),
            after("220 mx\r\n", flood("", "250-X-SOMETHING\r\n")),
            too_much("capability"),
        ),
        (
            target(Protocol::Lmtp),
            after("220 mx\r\n", flood("", "250-X-SOMETHING\r\n")),
            too_much("capability"),
        ),
        (
            target(Protocol::Sieve),
            flood("", "\"SOMETHING\" \"x\"\r\n"),
            too_much("greeting"),
        ),
        (
            target(Protocol::Sieve),
            flood("\"IMPLEMENTATION\" {99999999999}\r\n", "x"),
            "greeting: literal of 99999999999 bytes, past the 64 KiB that are read".to_owned(),
        ),
        (
            target(Protocol::Sieve),
            flood("NO {60000}\r\n", "x"),
            "greeting: *".to_owned(),
        ),
        (
            target(Protocol::Http),
            get(flood("", "HTTP/1.1 100 Continue\r\n\r\n")),
            too_much("http"),
        ),
        (
            target(Protocol::Http),
            get(flood("HTTP/1.1 200 OK\r\n", "X-Something: x\r\n")),
            too_much("http"),
        ),
        (
            target(Protocol::Http),
            get(flood(
                &format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200)),
                "x",
            )),
            String::new(),
        ),
        // The reason names the status, not the head that never ends.
        (
            target(Protocol::Http),
            get(flood("HTTP/1.1 503 Busy\r\n", "X-Something: x\r\n")),
            "http: status 503 Busy".to_owned(),
        ),
        // A body without an end is not read.
        (
            target(Protocol::Http),
            get(flood("HTTP/1.1 200 OK\r\n\r\n", "x")),
            String::new(),
        ),
    ];
    check(
        cases
            .into_iter()
            .enumerate()
            .map(|(i, (target, script, reason))| {
                case(&format!("flood {i}"), target, script, Early, &reason)
            })
            .collect(),
    )
    .await;
}

#[tokio::test]
async fn long_lists_of_capabilities() {
    let tokens = |each: &str| each.repeat(10_000);
    let imap = |list: &str| {
        vec![
            say("* OK hello\r\n"),
            Read,
            say(format!("* CAPABILITY {list}\r\na1 OK\r\n")),
            Hold,
        ]
    };
    let smtp = |list: &str| {
        vec![
            say("220 mx\r\n"),
            Read,
            say(format!("250-mx\r\n{list}")),
            Hold,
        ]
    };
    check(vec![
        case(
            "10,000 capabilities in a line",
            target(Protocol::Imap),
            imap(&tokens("AUTH=X ")),
            Early,
            "capability: line longer than 8192 bytes: * CAPABILITY AUTH=X*",
        ),
        case(
            "1,000 in a line",
            target(Protocol::Imap),
            imap(&"AUTH=X ".repeat(1_000)),
            Early,
            "",
        ),
        case(
            "10,000 long lines",
            target(Protocol::Smtp),
            smtp(&tokens("250-X-SOMETHING\r\n")),
            Early,
            "capability: the server sent more than 64 KiB",
        ),
        case(
            "10,000 short lines are within the bound, and the last one counts",
            target(Protocol::Pop3)
                .login()
                .mechanism(AuthMechanism::Plain),
            vec![
                say("+OK\r\n"),
                Read,
                say(format!("+OK\r\n{}SASL PLAIN\r\n.\r\n", tokens("X\r\n"))),
                Read,
                say("+\r\n"),
                Read,
                say("+OK\r\n"),
                Hold,
            ],
            Early,
            "",
        ),
        case(
            "1,000 mechanisms, none of them ours",
            target(Protocol::Sieve).login(),
            vec![
                say(format!(
                    "\"SASL\" \"{}\"\r\nOK\r\n",
                    "X-AUTH ".repeat(1_000)
                )),
                Hold,
            ],
            Early,
            "auth: no usable login mechanism offered (offered: X-AUTH, X-AUTH, *",
        ),
    ])
    .await;
}

/// A mailbox may have any number of keywords, and no limit holds for the lines of a server.
#[tokio::test]
async fn long_lines_that_a_probe_does_not_need() {
    let keywords = |count| "keyword-of-a-message ".repeat(count);
    let opening = |reply: String| {
        let target = Target {
            test_mailbox: Some("INBOX".into()),
            ..target(Protocol::Imap).login()
        };
        let script = vec![
            say("* OK [CAPABILITY SASL-IR AUTH=PLAIN] hello\r\n"),
            Read,
            say("a1 OK in\r\n"),
            Read,
            say(reply),
            Hold,
        ];
        (target, script)
    };
    let tagged = "* 1 EXISTS\r\na2 OK done\r\n";
    let mut cases = Vec::new();
    for (name, reply, reason) in [
        (
            "FLAGS and PERMANENTFLAGS",
            format!(
                "* FLAGS (\\Seen {0})\r\n* OK [PERMANENTFLAGS (\\Seen {0})] limited\r\n{tagged}",
                keywords(1_000)
            ),
            "",
        ),
        (
            "a literal at the end of a long line, and a long line after it",
            format!(
                "* X {0}{{22}}\r\na2 NO in the literal\r\n {0}\r\n{tagged}",
                keywords(600)
            ),
            "",
        ),
        (
            "as much as fits into the buffer, and its end",
            format!(
                "* {}\r\n* {}\r\n{tagged}",
                "x".repeat(8190),
                "x".repeat(8188)
            ),
            "",
        ),
        (
            "a NUL in the middle",
            format!("* X {0}\0{0}\r\n{tagged}", "x".repeat(7000)),
            "examine: NUL in * X xxx*",
        ),
        (
            "without end",
            format!("* FLAGS ({}", keywords(4_000)),
            "examine: the server sent more than 64 KiB",
        ),
        (
            "a list of capabilities is needed whole",
            format!("* CAPABILITY {}\r\n{tagged}", keywords(600)),
            "examine: line longer than 8192 bytes: * CAPABILITY keyword*",
        ),
        (
            "also in a response code",
            format!("* OK [CAPABILITY {}] hello\r\n{tagged}", keywords(600)),
            "examine: line longer than 8192 bytes: * OK [CAPABILITY keyword*",
        ),
        (
            "our reply is needed whole",
            format!("a2 OK {}\r\n", keywords(600)),
            "examine: line longer than 8192 bytes: a2 OK keyword*",
        ),
    ] {
        let (target, script) = opening(reply);
        cases.push(case(name, target, script, Early, reason));
    }
    check(cases).await;
}

#[tokio::test]
async fn servers_that_are_something_else() {
    let proxied = |protocol| Target {
        haproxy_v2: true,
        ..target(protocol)
    };
    let ssh = "SSH-2.0-OpenSSH_9.2p1\r\n";
    let web = "HTTP/1.1 400 Bad Request\r\n\r\n";
    // A TLS record: an alert.
    let tls = b"\x15\x03\x01\x00\x02\x02\x0a";
    let mut cases = Vec::new();
    for protocol in [
        Protocol::Imap,
        Protocol::Pop3,
        Protocol::Smtp,
        Protocol::Lmtp,
        Protocol::Sieve,
    ] {
        for (name, says) in [("ssh", ssh), ("http", web)] {
            let wanted = format!(
                "greeting: unexpected reply: {}",
                says.lines().next().unwrap()
            );
            cases.push(case(
                name,
                target(protocol),
                [say(says), Hold],
                Early,
                &wanted,
            ));
        }
        cases.push(case(
            "a TLS alert",
            target(protocol),
            [say(tls), Close],
            Early,
            "greeting: NUL in ......",
        ));
        cases.push(case(
            "half open after the PROXY header",
            proxied(protocol),
            [ReadBytes(16), Hold],
            Late,
            "greeting: timed out after 400ms",
        ));
    }
    cases.extend([
        case(
            "imap",
            target(Protocol::Http),
            [say("* OK hello\r\n"), Hold],
            Early,
            "http: unexpected reply: * OK hello",
        ),
        case(
            "half open after the PROXY header",
            proxied(Protocol::Http),
            [ReadBytes(16), Hold],
            Late,
            "http: timed out after 400ms",
        ),
        case(
            "SMTP is not LMTP",
            target(Protocol::Lmtp),
            [
                say("220 mx ESMTP\r\n"),
                Read,
                say("500 5.5.2 what?\r\n"),
                Hold,
            ],
            Early,
            "capability: refused: 500 5.5.2 what?",
        ),
    ]);
    check(cases).await;
}

#[tokio::test]
async fn slow_and_deaf_servers() {
    let slow = |then: Do| {
        vec![
            say("* OK [CAPABILITY SASL-IR AUTH=PLAIN] hello\r\n"),
            Read,
            Wait(Duration::from_millis(200)),
            then,
            Read,
            Close,
        ]
    };
    check(vec![
        case(
            "a slow login",
            target(Protocol::Imap).login(),
            slow(say("a1 OK in\r\n")),
            Early,
            "",
        ),
        case(
            "a slow refusal",
            target(Protocol::Imap).login(),
            slow(say("a1 NO [AUTHENTICATIONFAILED] no\r\n")),
            Early,
            "auth: refused: a1 NO [AUTHENTICATIONFAILED] no",
        ),
        case(
            "accepts and ignores",
            target(Protocol::Imap),
            [Ignore],
            Late,
            &format!("greeting: timed out after 400ms{WAITS_FOR_HEADER}"),
        ),
        case(
            "accepts and ignores",
            target(Protocol::Http),
            [Ignore],
            Late,
            &format!("http: timed out after 400ms{WAITS_FOR_HEADER}"),
        ),
    ])
    .await;
}

/// In memory, where the number of bytes that fit between the two sides is known.
#[tokio::test(start_paused = true)]
async fn servers_that_stop_reading_what_we_send() {
    let target = target(Protocol::Pop3).user("probe", &"x".repeat(100_000));
    for (stays, reason) in [
        (true, "auth: timed out after 5s"),
        (false, "auth: connection closed"),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let server = async {
            theirs.write_all(b"+OK\r\n-ERR\r\n+OK\r\n").await?;
            theirs.read_exact(&mut [0; 500]).await?;
            if stays {
                std::future::pending::<()>().await;
            }
            drop(theirs);
            std::io::Result::Ok(())
        };
        let started = tokio::time::Instant::now();
        let verdict = tokio::select! {
            verdict = talk_to(ours, &target) => verdict,
            never = async { server.await.expect("served"); std::future::pending().await } => never,
        };
        assert_eq!(verdict.expect_err("not sent").to_string(), reason);
        assert!(started.elapsed() <= target.deep_timeout, "{reason}");
    }
}

/// However much a server sends: what the probe takes from the connection is counted.
#[tokio::test(start_paused = true)]
async fn no_more_than_the_bound_is_read() {
    use nauthilus_backend::engine::probe::transport::READ_LIMIT;
    for (protocol, endless) in [
        (
            Protocol::Imap,
            "* OK Waiting for authentication process\r\n",
        ),
        (Protocol::Smtp, "220-mx\r\n"),
        (Protocol::Sieve, "\"X\"\r\n"),
        (Protocol::Http, "HTTP/1.1 100 Continue\r\n\r\n"),
        (Protocol::Pop3, "+OK"),
    ] {
        let taken = Arc::new(AtomicUsize::new(0));
        let peer = Endless {
            text: endless.as_bytes(),
            taken: taken.clone(),
        };
        let verdict = talk_to(peer, &target(protocol)).await;
        let taken = taken.load(SeqCst);
        assert!(verdict.is_err(), "{protocol}");
        assert!(taken <= READ_LIMIT, "{protocol}: {taken} bytes");
    }
}

/// What servers answer that take the PROXY header for commands, and those that miss it. Recorded
/// from real ones: the answers to two empty lines, a NUL and QUIT.
#[tokio::test]
async fn the_proxy_header_is_suggested_both_ways() {
    const NOT_EXPECTED: &str = "; does the listener expect the PROXY header (haproxy_v2 is true)?";
    let proxied = |target: Target| Target {
        haproxy_v2: true,
        ..target
    };
    // Greets, and answers the header before anything else is asked.
    let takes_commands = |greeting: &str, answers: &str| {
        [say(greeting), ReadBytes(16), say(answers), Close].to_vec()
    };
    let sieve = "\"IMPLEMENTATION\" \"x\"\r\n\"SASL\" \"PLAIN\"\r\nOK\r\n";
    let imap = "* OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS AUTH=PLAIN] hello\r\n";
    let bad = "* BAD Error in IMAP command\r\n";
    let mut cases = Vec::new();
    let mut unexpected = |name: &str, target: Target, script: Vec<Do>, reason: &str| {
        let reason = format!("{reason}{NOT_EXPECTED}");
        cases.push(case(name, proxied(target), script, Early, &reason));
    };
    for errors in 0..=3 {
        let answers = "-ERR what?\r\n".repeat(errors) + "+OK bye\r\n";
        unexpected(
            &format!("{errors} errors and a goodbye"),
            target(Protocol::Pop3),
            takes_commands("+OK hello\r\n", &answers),
            "capability: connection closed",
        );
    }
    unexpected(
        "errors and an end",
        target(Protocol::Pop3),
        takes_commands("+OK hello\r\n", "-ERR what?\r\n-ERR what?\r\n"),
        "capability: connection closed",
    );
    unexpected(
        "errors before a login",
        target(Protocol::Pop3).login(),
        takes_commands("+OK hello\r\n", "-ERR 1\r\n-ERR 2\r\n-ERR 3\r\n+OK bye\r\n"),
        "auth: refused: -ERR 2",
    );
    unexpected(
        "errors before STLS",
        target(Protocol::Pop3).starttls(),
        takes_commands("+OK hello\r\n", "+OK bye\r\n"),
        "capability: connection closed",
    );
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        let answers = "500 5.5.2 bad syntax\r\n".repeat(3) + "221 2.0.0 bye\r\n";
        unexpected(
            "errors and a goodbye",
            target(protocol),
            takes_commands("220 mx\r\n", &answers),
            "capability: refused: 500 5.5.2 bad syntax",
        );
    }
    unexpected(
        "a goodbye alone",
        target(Protocol::Smtp),
        takes_commands("220 mx\r\n", "221 2.0.0 bye\r\n"),
        "capability: unexpected reply: 221 2.0.0 bye",
    );
    unexpected(
        "a server that notices haste",
        target(Protocol::Smtp),
        vec![say("554 5.5.1 Error: you talk before your turn\r\n"), Close],
        "greeting: refused: 554 5.5.1 Error: you talk before your turn",
    );
    for (name, target, stage) in [
        ("in a login", target(Protocol::Imap).login(), "auth"),
        ("at STARTTLS", target(Protocol::Imap).starttls(), "starttls"),
        ("at the list", target(Protocol::Imap), "capability"),
    ] {
        unexpected(
            name,
            target,
            takes_commands(imap, &bad.repeat(3)),
            &format!("{stage}: connection closed"),
        );
    }
    unexpected(
        "errors",
        target(Protocol::Sieve),
        takes_commands(sieve, "NO \"what?\"\r\n"),
        "capability: refused: NO \"what?\"",
    );
    unexpected(
        "errors in a login",
        target(Protocol::Sieve).login(),
        takes_commands(sieve, "NO \"what?\"\r\n"),
        "auth: refused: NO \"what?\"",
    );
    unexpected(
        "400",
        target(Protocol::Http),
        vec![
            ReadBytes(16),
            say("HTTP/1.1 400 Bad Request\r\n\r\n"),
            Close,
        ],
        "http: status 400 Bad Request",
    );
    unexpected(
        "an end",
        target(Protocol::Http),
        vec![ReadHead, Close],
        "http: connection closed",
    );

    // Exim greets a client that sends no header, and refuses all of its commands.
    let exim = "503 Command refused, required Proxy negotiation failed\r\n";
    cases.push(case(
        "a header that is missed",
        target(Protocol::Smtp),
        [say("220 mx\r\n"), Read, say(exim), Read, say(exim), Hold],
        Early,
        &format!("capability: refused: {}{WAITS_FOR_HEADER}", exim.trim_end()),
    ));
    // Where the server has understood a request, its refusal does not suggest the PROXY header.
    cases.push(case(
        "another status",
        proxied(target(Protocol::Http)),
        [ReadHead, say("HTTP/1.1 503 Down\r\n\r\n"), Hold],
        Early,
        "http: status 503 Down",
    ));
    cases.push(case(
        "a refused login",
        proxied(target(Protocol::Imap).login()),
        [
            say("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello\r\n"),
            Read,
            say("a1 NO no\r\n"),
            Hold,
        ],
        Early,
        "auth: refused: a1 NO no",
    ));
    cases.push(case(
        "nothing that could be sent",
        proxied(
            target(Protocol::Imap)
                .login()
                .mechanism(AuthMechanism::Login),
        ),
        [
            say("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello\r\n"),
            Hold,
        ],
        Early,
        "auth: mechanism LOGIN not offered (offered: none)",
    ));
    check(cases).await;
}

/// An alert in place of a handshake: what a server of TLS says to a PROXY header (and Exim, to a
/// handshake whose beginning it took for one).
#[tokio::test]
async fn an_alert_of_garbled_input_suggests_the_header() {
    let implicit = |haproxy_v2| Target {
        tls_mode: TlsMode::Implicit,
        tls_skip_verify: true,
        haproxy_v2,
        ..target(Protocol::Smtp)
    };
    let mut cases = Vec::new();
    for (number, haproxy_v2, reason) in [
        (
            10,
            true,
            "*; does the listener expect the PROXY header (haproxy_v2 is true)?",
        ),
        (
            50,
            true,
            "*; does the listener expect the PROXY header (haproxy_v2 is true)?",
        ),
        (
            70,
            true,
            "*; does the listener expect the PROXY header (haproxy_v2 is true)?",
        ),
        (
            10,
            false,
            "*; if the listener expects the PROXY header, set haproxy_v2",
        ),
        (
            50,
            false,
            "*; if the listener expects the PROXY header, set haproxy_v2",
        ),
        (
            70,
            false,
            "tls: the server offers no TLS version of 1.2 or newer",
        ),
    ] {
        let alert = [0x15, 3, 1, 0, 2, 2, number];
        cases.push(case(
            &format!("alert {number}, haproxy_v2 {haproxy_v2}"),
            implicit(haproxy_v2),
            [ReadBytes(16), say(alert), Close],
            Early,
            reason,
        ));
    }
    check(cases).await;
}
