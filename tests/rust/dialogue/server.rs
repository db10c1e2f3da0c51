//! A server that does what its script says, for one connection over TCP on loopback, and the
//! probe of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::probe::transport::Transport;
use nauthilus_backend::engine::probe::{Depth, Prober};
use nauthilus_backend::engine::target::{Host, Target};
use openssl::ssl::{Ssl, SslContext};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_openssl::SslStream;

/// The deadline of probes that are to reach it, as reasons have it in [`Case::reason`].
const SHORT: Duration = Duration::from_millis(400);
const SHORT_TEXT: &str = "400ms";
/// The deadline of a second attempt: a machine that stands still for a moment may reach the first
/// one's before the server has come to what the case is about.
const SECOND: Duration = Duration::from_secs(3);
const SECOND_TEXT: &str = "3s";
/// The deadline of probes that are to end before it.
const LONG: Duration = Duration::from_secs(20);
/// How much later a probe may end because of a graceful close, or on a busy machine.
const SLACK: Duration = Duration::from_secs(8);
/// How many servers run at a time.
const AT_ONCE: usize = 32;

/// What a server does next.
#[derive(Clone)]
pub(crate) enum Do {
    Say(Vec<u8>),
    /// Sends the first text inside TLS and the second one beside it, in the clear, in one packet.
    Blurt(Vec<u8>, Vec<u8>),
    /// Reads one line.
    Read,
    /// Reads up to an empty line.
    ReadHead,
    /// Reads so many bytes.
    ReadBytes(usize),
    /// Reads until the client closes, and says nothing.
    Hold,
    /// Sends these bytes one at a time, with a pause after each.
    Drip(Vec<u8>),
    /// Sends these bytes again and again, until the client closes.
    Flood(Vec<u8>),
    Wait(Duration),
    /// Ends its side of the connection (FIN) without a `close_notify` of TLS.
    Close,
    Reset,
    /// Sends the `close_notify` of TLS, and fails where the client does not send one.
    Part,
    /// Makes the rest of the script run inside TLS.
    Tls(SslContext),
    /// Reads no bytes at all, for longer than the probe may take.
    Ignore,
}

pub(crate) fn say(text: impl AsRef<[u8]>) -> Do {
    Do::Say(text.as_ref().to_vec())
}

/// When a probe must have ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ends {
    /// Before its deadline, since the server has sent or done what the reason is about.
    Early,
    /// At its deadline.
    Late,
}

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) script: Vec<Do>,
    pub(crate) ends: Ends,
    /// The whole reason, or its beginning and `*`, or `*` and its end; empty for a good probe. Where
    /// there are several lines, any of them.
    pub(crate) reason: String,
}

pub(crate) fn case(
    name: &str,
    target: Target,
    script: impl Into<Vec<Do>>,
    ends: Ends,
    reason: &str,
) -> Case {
    Case {
        name: format!("{}, {name}", target.protocol),
        target,
        script: script.into(),
        ends,
        reason: reason.to_owned(),
    }
}

/// Runs all cases and reports every one that went wrong.
pub(crate) async fn check(cases: Vec<Case>) {
    let prober = Arc::new(Prober::default());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in cases {
        let (prober, places) = (prober.clone(), places.clone());
        running.spawn(async move {
            let _place = places.acquire().await.expect("open");
            run(case, &prober).await
        });
    }
    let wrong: Vec<String> = running
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn run(case: Case, prober: &Prober) -> Result<(), String> {
    if case.ends == Ends::Early {
        return attempt(case, LONG, prober).await;
    }
    let Err(first) = attempt(case.clone(), SHORT, prober).await else {
        return Ok(());
    };
    let mut second = case;
    second.reason = second.reason.replace(SHORT_TEXT, SECOND_TEXT);
    let result = attempt(second, SECOND, prober).await;
    result.map_err(|second| format!("{first}\nand again, {second}"))
}

/// Runs a case whose probe has until `deadline`.
async fn attempt(mut case: Case, deadline: Duration, prober: &Prober) -> Result<(), String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    case.target.host = Host::Ip(address.ip());
    case.target.port = address.port();
    case.target.deep_timeout = deadline;
    case.target.tls_timeout = deadline;

    let script = case.script;
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, script.clone()));
        }
    });
    let started = Instant::now();
    let outcome = prober.run(&case.target, Depth::Deep, None).await;
    let took = started.elapsed();
    server.abort();

    let reason = outcome
        .result
        .map_or_else(|e| e.to_string(), |()| String::new());
    let mut wanted = case.reason.split('\n');
    let as_wanted =
        wanted.any(
            |wanted| match (wanted.strip_suffix('*'), wanted.strip_prefix('*')) {
                (Some(beginning), _) => reason.starts_with(beginning),
                (None, Some(end)) => reason.ends_with(end),
                (None, None) => reason == wanted,
            },
        );
    // Reasons are one printable line, and quote no more of the peer than is allowed.
    let in_form = reason.len() < 220 && reason.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let in_time = match case.ends {
        Ends::Early => took < deadline,
        Ends::Late => took >= deadline && took < deadline + SLACK,
    };
    if as_wanted && in_form && in_time {
        return Ok(());
    }
    let Case {
        name,
        reason: wanted,
        ..
    } = case;
    Err(format!(
        "{name}: {reason:?} after {took:?}, wanted {wanted:?}"
    ))
}

pub(crate) async fn serve(stream: TcpStream, script: Vec<Do>) -> io::Result<()> {
    let socket = socket2::SockRef::from(&stream).try_clone()?;
    let mut stream: BufReader<Box<dyn Transport>> = BufReader::new(Box::new(stream));
    let mut line = Vec::new();
    for step in script {
        match step {
            Do::Say(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Do::Blurt(bytes, beside_tls) => {
                socket.set_tcp_cork(true)?;
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                socket.send(&beside_tls)?;
                socket.set_tcp_cork(false)?;
            }
            Do::Read => drop(stream.read_until(b'\n', &mut line).await?),
            Do::ReadHead => {
                line.clear();
                while !line.ends_with(b"\r\n\r\n") && stream.read_until(b'\n', &mut line).await? > 0
                {
                }
            }
            Do::ReadBytes(count) => drop(stream.read_exact(&mut vec![0; count]).await?),
            Do::Hold => drop(stream.read_to_end(&mut Vec::new()).await?),
            Do::Drip(bytes) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(SHORT / 8).await;
                }
            }
            Do::Flood(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Do::Part => {
                stream.shutdown().await?;
                stream.read_to_end(&mut Vec::new()).await?;
                // Only the second call tells whether the client sent a `close_notify`.
                stream.shutdown().await?;
            }
            Do::Wait(time) => tokio::time::sleep(time).await,
            Do::Tls(context) => {
                let ssl = Ssl::new(&context)?;
                let mut tls = SslStream::new(ssl, stream.into_inner())?;
                Pin::new(&mut tls)
                    .accept()
                    .await
                    .map_err(io::Error::other)?;
                stream = BufReader::new(Box::new(tls));
            }
            Do::Close => {
                // Shuts the socket down, so that TLS sends no `close_notify`. Closing it with
                // unread input would send a reset.
                socket.shutdown(std::net::Shutdown::Write)?;
                stream.read_to_end(&mut Vec::new()).await?;
                return Ok(());
            }
            Do::Reset => {
                socket.set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Do::Ignore => tokio::time::sleep(SECOND + SLACK).await,
        }
    }
    Ok(())
}
