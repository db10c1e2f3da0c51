//! A TLS server with an IMAP dialogue behind it, for the rows of `make bench` that need many
//! healthy ones: `tls_server CERTIFICATE.pem 1.2|1.3`. It listens on one port of every loopback
//! address, prints that port, and answers each line of its input with
//! `handshakes resumed logins` so far. It ends with its input.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVersion};
use socket2::{Domain, Socket, Type};

/// Connections served at once, each by a thread of its own.
const THREADS: usize = 256;
const STACK: usize = 128 * 1024;
const BACKLOG: i32 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Counts {
    handshakes: AtomicU64,
    resumed: AtomicU64,
    logins: AtomicU64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, version] = arguments.as_slice() else {
        eprintln!("usage: tls_server CERTIFICATE.pem 1.2|1.3");
        return;
    };
    let acceptor = Arc::new(acceptor(certificate, version));
    let listener = listener();
    println!("{}", listener.local_addr().unwrap().port());
    let counts = Arc::new(Counts::default());
    for _ in 0..THREADS {
        let (listener, acceptor) = (listener.try_clone().unwrap(), acceptor.clone());
        let counts = counts.clone();
        let serve = move || {
            for stream in listener.incoming().flatten() {
                // A client may abort its connection at any moment: that is no failure of the
                // benchmark.
                let _ = serve_client(&acceptor, stream, &counts);
            }
        };
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(serve)
            .unwrap();
    }
    for _ in std::io::stdin().lines() {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts {
            handshakes,
            resumed,
            logins,
        } = &*counts;
        println!("{} {} {}", read(handshakes), read(resumed), read(logins));
    }
    std::process::exit(0);
}

fn acceptor(certificate: &str, version: &str) -> SslAcceptor {
    let version = match version {
        "1.2" => SslVersion::TLS1_2,
        _ => SslVersion::TLS1_3,
    };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder.set_certificate_chain_file(certificate).unwrap();
    builder
        .set_private_key_file(certificate, SslFiletype::PEM)
        .unwrap();
    builder.set_session_id_context(b"bench").unwrap();
    builder.build()
}

fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let everywhere: SocketAddr = ([0, 0, 0, 0], 0).into();
    socket.bind(&everywhere.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

fn serve_client(
    acceptor: &SslAcceptor,
    stream: std::net::TcpStream,
    counts: &Counts,
) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(acceptor.accept(stream)?);
    counts.handshakes.fetch_add(1, Ordering::Relaxed);
    if stream.get_ref().ssl().session_reused() {
        counts.resumed.fetch_add(1, Ordering::Relaxed);
    }
    let greeting = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n";
    stream.get_mut().write_all(greeting.as_bytes())?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let tag = words.next().unwrap_or("*");
        let command = words.next().unwrap_or_default();
        let before = match command {
            "LOGOUT" => "* BYE\r\n",
            "CAPABILITY" => "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\n",
            _ => "",
        };
        if command == "AUTHENTICATE" {
            counts.logins.fetch_add(1, Ordering::Relaxed);
        }
        let answer = format!("{before}{tag} OK done\r\n");
        stream.get_mut().write_all(answer.as_bytes())?;
        if command == "LOGOUT" {
            return Ok(());
        }
    }
}
