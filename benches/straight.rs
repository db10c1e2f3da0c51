//! The baseline of the deep check: one IMAP login over TLS after the other, a blocking client
//! written with the same crates in the plainest way, each with a full handshake that verifies
//! the certificate: `straight PORT CA-FILE COUNT PAUSE-MS full`. With `resumed` in place of `full`
//! it resumes the first one's session, for the limit. Prints nanoseconds of CPU per login.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nauthilus_backend::sys::tls_session::{self, Resumable};
use openssl::ssl::{SslConnector, SslMethod, SslSessionCacheMode, SslStream};

type Stream = BufReader<SslStream<TcpStream>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, ca_file, count, pause, handshakes] = arguments.as_slice() else {
        eprintln!("usage: straight PORT CA-FILE COUNT PAUSE-MS full|resumed");
        return;
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(ca_file).unwrap();
    let given = Arc::<Mutex<Option<Resumable>>>::default();
    if handshakes == "resumed" {
        builder
            .set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let take = given.clone();
        tls_session::on_new(&mut builder, move |session| {
            *take.lock().unwrap() = Some(session.copy().unwrap());
        });
    }
    let connector = builder.build();
    let port = port.parse().unwrap();
    let count: u32 = count.parse().unwrap();
    let pause = Duration::from_millis(pause.parse().unwrap());
    log_in(&connector, port, None);
    let session = given.lock().unwrap().take();
    let before = cpu_ns();
    for _ in 0..count {
        log_in(&connector, port, session.as_ref());
        std::thread::sleep(pause);
    }
    println!("{}", (cpu_ns() - before) / u64::from(count));
}

/// CPU time of this thread, which is the only one.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn log_in(connector: &SslConnector, port: u16, session: Option<&Resumable>) {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_nodelay(true).unwrap();
    let stream = match session {
        None => connector.connect("127.0.0.1", socket).unwrap(),
        Some(session) => {
            let mut stream = SslStream::new(session.connection().unwrap(), socket).unwrap();
            stream.connect().unwrap();
            assert!(stream.ssl().session_reused());
            stream
        }
    };
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).unwrap();
    assert!(greeting.starts_with("* OK"), "{greeting}");
    command(&mut stream, "a1", "CAPABILITY");
    let login = STANDARD.encode("\0probe\0secret");
    command(&mut stream, "a2", &format!("AUTHENTICATE PLAIN {login}"));
    command(&mut stream, "a3", "LOGOUT");
}

/// Sends one command and reads up to its good answer.
fn command(stream: &mut Stream, tag: &str, text: &str) {
    let line = format!("{tag} {text}\r\n");
    stream.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.starts_with(tag) {
        answer.clear();
        assert!(stream.read_line(&mut answer).unwrap() > 0, "it hung up");
    }
    assert!(answer.contains(" OK"), "{answer}");
}
