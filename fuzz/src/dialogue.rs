//! The dialogues against a peer whose words are the input.
//!
//! An input is two bytes of circumstances, then what the peer says: before TLS, a byte
//! [`UPGRADE`], and after. The peer is always ready, so one poll runs a whole dialogue; where
//! it has nothing more to say it ends, breaks or leaves the probe waiting, which is then
//! dropped.
//!
//! Whatever the peer says: no panic; no more than the bound is read; the reason is one
//! printable line without a secret; no secret is sent in the clear that must not be.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use nauthilus_backend::engine::probe::dialogue::session::{LINE_MAX, Session};
use nauthilus_backend::engine::probe::dialogue::{self, Conversation};
use nauthilus_backend::engine::probe::transport::{READ_LIMIT, Transport};
use nauthilus_backend::engine::target::{AuthMechanism, Host, Protocol, Secret, Target, TlsMode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// In an input, where TLS begins.
const UPGRADE: u8 = 1;

/// Passwords that no text of ours has a piece of, and their forms in base64.
const PASSWORDS: [(&str, [&str; 3]); 2] = [
    (
        "Zq7#Wv9!",
        [
            "WnE3I1d2OSE=",
            "AHByb2JlAFpxNyNXdjkh",
            "cHJvYmU6WnE3I1d2OSE=",
        ],
    ),
    (
        "Zq7\u{df}\"\\ v9",
        [
            "WnE3w58iXCB2OQ==",
            "AHByb2JlAFpxN8OfIlwgdjk=",
            "cHJvYmU6WnE3w58iXCB2OQ==",
        ],
    ),
];

pub fn imap(data: &[u8]) {
    check(Protocol::Imap, data);
}

pub fn pop3(data: &[u8]) {
    check(Protocol::Pop3, data);
}

pub fn smtp(data: &[u8]) {
    check(Protocol::Smtp, data);
}

pub fn lmtp(data: &[u8]) {
    check(Protocol::Lmtp, data);
}

pub fn sieve(data: &[u8]) {
    check(Protocol::Sieve, data);
}

pub fn http(data: &[u8]) {
    check(Protocol::Http, data);
}

fn check(protocol: Protocol, data: &[u8]) {
    let [first, second, says @ ..] = data else {
        return;
    };
    let bit = |n: u8| first >> n & 1 == 1;
    let (password, encoded) = PASSWORDS[usize::from(bit(4))];
    let target = Target {
        tls_mode: if bit(0) {
            TlsMode::StartTls
        } else {
            TlsMode::Plain
        },
        test_username: bit(3).then(|| "probe".into()),
        test_password: bit(3).then(|| Secret::new(password.into())),
        allow_plaintext_auth: bit(2),
        auth_mechanism: match second & 7 {
            0 => AuthMechanism::Plain,
            1 => AuthMechanism::Login,
            2 => AuthMechanism::UserPass,
            3 => AuthMechanism::Basic,
            _ => AuthMechanism::Auto,
        },
        ..target(protocol)
    };
    let (tls, loopback) = (bit(1), bit(5));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let peer = Peer::new(says, *second, seen.clone());
    let upgrade = |clear: Box<dyn Transport>| {
        seen.lock().expect("one thread").upgraded = true;
        async move { Ok(clear) }.boxed()
    };
    let about = Conversation {
        target: &target,
        tls,
        loopback,
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        upgrade: &upgrade,
        observer: None,
        clock: None,
    };
    let verdict = poll_once(dialogue::run(Box::new(peer), about));

    let seen = seen.lock().expect("one thread");
    assert!(seen.read <= READ_LIMIT, "{} bytes read", seen.read);
    let has_secret = |text: &[u8]| {
        bit(3)
            && std::iter::once(password)
                .chain(encoded)
                .any(|secret| contains(text, secret.as_bytes()))
    };
    if !(tls || loopback || target.allow_plaintext_auth) {
        assert!(!has_secret(&seen.sent_in_the_clear), "secret in the clear");
    }
    if let Some(Err(error)) = verdict {
        let text = error.to_string();
        assert!(!has_secret(text.as_bytes()), "secret in {text}");
        assert!(text.len() < 260, "long: {text}");
        assert!(
            text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
            "{text:?}"
        );
    }
}

/// The line reader against the plain meaning of lines and counts. The first byte is how many
/// follow that say what to read: 0 a line, else so many bytes.
pub fn lines(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let (steps, says) = rest.split_at(usize::from(*count).min(rest.len()));
    let chunk = steps.first().copied().unwrap_or(7);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let target = target(Protocol::Imap);
    let peer = Peer {
        says: says.to_vec(),
        at: 0,
        chunk: usize::from(chunk) + 1,
        end: End::Close,
        seen: seen.clone(),
        border: None,
    };
    let about = Conversation {
        target: &target,
        tls: false,
        loopback: true,
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        upgrade: &|clear| async move { Ok(clear) }.boxed(),
        observer: None,
        clock: None,
    };
    let reading = async move {
        let mut session = Session::new(Box::new(peer), about);
        let mut at = 0;
        for step in steps {
            if *step == 0 {
                let got = session.read_line().await;
                let rest = &says[at..];
                let stop = rest.iter().take(LINE_MAX).position(|&b| b == b'\n');
                let line = stop.map(|stop| &rest[..stop]);
                let line = line.filter(|line| at + line.len() < READ_LIMIT && !line.contains(&0));
                let Some(line) = line else {
                    assert!(got.is_err(), "a line out of nothing");
                    return;
                };
                got.expect("a line");
                assert_eq!(session.line(), line.strip_suffix(b"\r").unwrap_or(line));
                at += line.len() + 1;
            } else {
                // Also past the bound.
                let count = usize::from(*step).pow(2) + usize::from(*step == 255) * READ_LIMIT;
                let mut kept = Vec::new();
                let got = session.read_bytes(count as u64, Some(&mut kept)).await;
                match says
                    .get(at..at + count)
                    .filter(|_| at + count <= READ_LIMIT)
                {
                    Some(wanted) => {
                        got.expect("bytes");
                        assert_eq!(kept, wanted);
                    }
                    None => {
                        assert!(got.is_err(), "bytes out of nothing");
                        return;
                    }
                }
                at += count;
            }
        }
    };
    assert!(poll_once(reading).is_some(), "always ready, yet not done");
    assert!(seen.lock().expect("one thread").read <= READ_LIMIT);
}

/// What a dialogue did.
#[derive(Default)]
struct Seen {
    read: usize,
    upgraded: bool,
    sent_in_the_clear: Vec<u8>,
}

/// What a peer does when it has said all.
#[derive(Clone, Copy)]
enum End {
    Close,
    Reset,
    Stall,
}

struct Peer {
    says: Vec<u8>,
    at: usize,
    /// Bytes at a time, at most.
    chunk: usize,
    end: End,
    seen: Arc<Mutex<Seen>>,
    /// Where in `says` the border is that only an upgrade passes: the first [`UPGRADE`], or the
    /// end. None where there is no border, or once it was passed. Found once: to search at each
    /// read would take longer than what is tested.
    border: Option<usize>,
}

impl Peer {
    fn new(says: &[u8], shape: u8, seen: Arc<Mutex<Seen>>) -> Self {
        let border = says.iter().position(|&b| b == UPGRADE);
        Self {
            says: says.to_vec(),
            at: 0,
            chunk: [4096, 1, 3, 64][usize::from(shape >> 3 & 3)],
            end: [End::Stall, End::Close, End::Reset, End::Close][usize::from(shape >> 5 & 3)],
            seen,
            border: Some(border.unwrap_or(says.len())),
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = self.get_mut();
        let mut seen = peer.seen.lock().expect("one thread");
        if seen.upgraded
            && let Some(border) = peer.border.take()
        {
            // What was not read in the clear is lost to it.
            peer.at = (border + 1).min(peer.says.len());
        }
        let stop = peer.border.unwrap_or(peer.says.len());
        let rest = &peer.says[peer.at..stop];
        if rest.is_empty() && stop < peer.says.len() {
            return Poll::Pending;
        }
        let count = rest.len().min(peer.chunk).min(buffer.remaining());
        if count == 0 {
            return match peer.end {
                End::Close => Poll::Ready(Ok(())),
                End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                End::Stall => Poll::Pending,
            };
        }
        buffer.put_slice(&rest[..count]);
        peer.at += count;
        seen.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut seen = self.seen.lock().expect("one thread");
        if !seen.upgraded {
            seen.sent_in_the_clear.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The future's result, if it has one without waiting. Its timers need a runtime to belong
/// to, but nobody lets their time pass.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    thread_local! {
        static RUNTIME: RefCell<Option<tokio::runtime::Runtime>> = const { RefCell::new(None) };
    }
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime")
        });
        let _inside = runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len())
        .any(|w| w.eq_ignore_ascii_case(part))
}

fn target(protocol: Protocol) -> Target {
    Target {
        deep_check: true,
        deep_timeout: Duration::from_secs(5),
        ..Target::new(protocol, Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), 1)
    }
}

// Circumstances in the seeds: `(` a login in the clear to loopback, `)` one after STARTTLS,
// `8` one with the other password, `"` TLS and no login; then `$` says all at once and
// closes, `,` byte by byte, `D` resets.

pub const IMAP: &[&[u8]] = &[
    b"\"$* OK Waiting for authentication process to respond..\r\n* OK hello\r\n* LIST () \"/\" {3}\r\na1 \r\n* CAPABILITY IMAP4rev1\r\na1 OK done\r\n* BYE\r\nz OK\r\n",
    b"($* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello\r\na1 OK [CAPABILITY IMAP4rev1] in\r\n* BYE\r\n",
    b"(,* OK [CAPABILITY AUTH=PLAIN] hello\r\n+ \r\na1 NO [AUTHENTICATIONFAILED] Zq7#Wv9! AHByb2JlAFpxNyNXdjkh\r\n",
    b"($* OK [CAPABILITY AUTH=LOGIN] hello\r\n+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\na1 OK in\r\n",
    b"8D* OK [CAPABILITY IMAP4rev1] hello\r\n+ go\r\n+ go\r\na1 OK in\r\n",
    b"8$* OK [CAPABILITY IMAP4rev2 LITERAL+] hello\r\na1 OK in\r\n",
    b")$* OK [CAPABILITY STARTTLS LOGINDISABLED] hello\r\na1 OK begin\r\n\x01* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\na2 OK\r\na3 OK in\r\n",
    b"($* PREAUTH hello\r\n* CAPABILITY X\r\na1 OK\r\n",
];

pub const POP3: &[&[u8]] = &[
    b"\"$+OK <1@x>\r\n+OK\r\nTOP\r\n..X\r\n.\r\n+OK bye\r\n",
    b"($+OK\r\n+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\n.\r\n+OK in\r\n",
    b"(,+OK\r\n+OK\r\nSASL LOGIN\r\n.\r\n+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n-ERR Zq7#Wv9! WnE3I1d2OSE=\r\n",
    b"8$+OK\r\n-ERR\r\n+OK\r\n+OK in\r\n",
    b")$+OK\r\n+OK\r\nSTLS\r\n.\r\n+OK begin\r\n\x01+OK\r\nSASL PLAIN\r\n.\r\n+OK in\r\n",
];

pub const SMTP: &[&[u8]] = &[
    b"\"$220-mx\r\n220 hello\r\n250-mx\r\n250-SIZE 1\r\n250 8BITMIME\r\n221 bye\r\n",
    b"\"$220 hello\r\n502 what\r\n250 mx\r\n",
    b"($220 hello\r\n250-mx\r\n250 AUTH PLAIN LOGIN\r\n235 2.7.0 in\r\n",
    b"(,220 hello\r\n250-mx\r\n250 AUTH=LOGIN\r\n334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n535 5.7.8 Zq7#Wv9! AHByb2JlAFpxNyNXdjkh\r\n",
    b")$220 hello\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n\x01250-mx\r\n250 AUTH PLAIN\r\n235 in\r\n",
    b"($421 later\r\n",
];

pub const SIEVE: &[&[u8]] = &[
    b"\"$\"IMPLEMENTATION\" \"x\"\r\n\"SASL\" \"\"\r\nOK\r\n\"SIEVE\" \"a\"\r\nOK\r\nOK bye\r\n",
    b"($\"SASL\" \"PLAIN\"\r\nOK (TAG {3}\r\na\"b) \"hello\"\r\nOK (SASL \"x\") in\r\n",
    b"(,{4}\r\nSASL {5+}\r\nLOGIN\r\nOK\r\n\"VXNlcm5hbWU6\"\r\n{4}\r\nabcd\r\nNO \"Zq7#Wv9! \\\"WnE3I1d2OSE=\"\r\n",
    b")$\"STARTTLS\"\r\nOK\r\nOK\r\n\x01\"SASL\" \"PLAIN\"\r\nOK\r\nOK\r\n",
    b"\"$BYE (REFERRAL \"sieve://x\") {3}\r\nno!\r\n",
];

pub const HTTP: &[&[u8]] = &[
    b"\"$HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"($HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 302 Found\r\nA: b\r\n c\r\n\r\n",
    b"(DHTTP/1.1 401 cHJvYmU6WnE3I1d2OSE= Zq7#Wv9!\r\nWWW-Authenticate: Basic\r\n\r\n",
    b"8,HTTP/1.0 503\r\nRetry-After: 1\r\n\r\n",
];

pub const LINES: &[&[u8]] = &[
    b"\x05\x00\x00\x02\x00\x01a\r\nb\nabcdline\r\nx",
    b"\x03\x00\xff\x00* OK\r\n",
    b"\x02\x00\x00\r\n\0\n",
];

pub const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\u{1}",
    " ",
    "\"",
    "\\",
    "{",
    "}",
    "{3}\r\n",
    "{3+}",
    "{65536}",
    "{99999999999999999999}",
    "(",
    ")",
    "[",
    "]",
    "+ ",
    "+OK",
    "-ERR",
    "* ",
    "* BYE ",
    "* OK ",
    "a1 ",
    "a2 ",
    "OK",
    "NO",
    "BAD",
    "BYE",
    "PREAUTH",
    "CAPABILITY",
    "STARTTLS",
    "STLS",
    "AUTH=PLAIN",
    "AUTH=LOGIN",
    "AUTH ",
    "SASL",
    "SASL-IR",
    "LOGINDISABLED",
    "LITERAL+",
    "PLAIN",
    "LOGIN",
    "USER",
    "CRAM-MD5",
    "220 ",
    "220-",
    "250 ",
    "250-",
    "235 ",
    "334 ",
    "421 ",
    "500 ",
    "535 ",
    ".",
    "HTTP/1.1 ",
    "HTTP/1.1 200 OK\r\n",
    "100 Continue\r\n\r\n",
    ": ",
    "Zq7#Wv9!",
    "AHByb2JlAFpxNyNXdjkh",
    "cHJvYmU6WnE3I1d2OSE=",
];
