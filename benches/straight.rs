//! The baseline of the deep check: one IMAP login over TLS after the other, a blocking client
//! written with the same crates in the plainest way, each with a handshake that verifies the
//! certificate, or each with one that resumes the session of the first:
//! `straight PORT CA-FILE COUNT PAUSE-MS full|resumed`. Prints nanoseconds of CPU per login.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nauthilus_backend::sys::tls_session::{self, Resumable};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslSessionCacheMode, SslStream, SslVerifyMode};

/// One for all logins, since loading the CA file takes longer than a login.
struct Client {
    context: SslContext,
    resumes: bool,
    /// The first session that the server gave.
    session: Arc<Mutex<Option<Resumable>>>,
}

impl Client {
    fn new(ca_file: &str, resumes: bool) -> Self {
        let session = Arc::<Mutex<Option<Resumable>>>::default();
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_ca_file(ca_file).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        if resumes {
            let cache = SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL;
            builder.set_session_cache_mode(cache);
            let kept = session.clone();
            tls_session::on_new(&mut builder, move |given| {
                kept.lock()
                    .unwrap()
                    .get_or_insert_with(|| given.copy().unwrap());
            });
        }
        Self {
            context: builder.build(),
            resumes,
            session,
        }
    }

    fn connect(&self, port: u16, is_first: bool) -> SslStream<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut ssl = match &*self.session.lock().unwrap() {
            Some(session) => session.connection().unwrap(),
            None => Ssl::new(&self.context).unwrap(),
        };
        ssl.param_mut().set_ip([127, 0, 0, 1].into()).unwrap();
        let mut stream = SslStream::new(ssl, socket).unwrap();
        stream.connect().unwrap();
        let resumed = stream.ssl().session_reused();
        assert_eq!(resumed, self.resumes && !is_first);
        stream
    }

    fn log_in(&self, port: u16, is_first: bool) {
        let mut stream = BufReader::new(self.connect(port, is_first));
        let mut greeting = String::new();
        stream.read_line(&mut greeting).unwrap();
        assert!(greeting.starts_with("* OK"), "{greeting}");
        command(&mut stream, "a1", "CAPABILITY");
        let login = STANDARD.encode("\0probe\0secret");
        command(&mut stream, "a2", &format!("AUTHENTICATE PLAIN {login}"));
        command(&mut stream, "a3", "LOGOUT");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, ca_file, count, pause, handshakes] = arguments.as_slice() else {
        eprintln!("usage: straight PORT CA-FILE COUNT PAUSE-MS full|resumed");
        return;
    };
    let client = Client::new(ca_file, handshakes == "resumed");
    let port = port.parse().unwrap();
    let count: u32 = count.parse().unwrap();
    let pause = Duration::from_millis(pause.parse().unwrap());
    client.log_in(port, true);
    let before = cpu_ns();
    for _ in 0..count {
        client.log_in(port, false);
        std::thread::sleep(pause);
    }
    println!("{}", (cpu_ns() - before) / u64::from(count));
}

/// The CPU time of this thread, which is the only one of the process.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends one command and reads up to its good answer.
fn command(stream: &mut BufReader<SslStream<TcpStream>>, tag: &str, text: &str) {
    let line = format!("{tag} {text}\r\n");
    stream.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.starts_with(tag) {
        answer.clear();
        assert!(stream.read_line(&mut answer).unwrap() > 0, "it hung up");
    }
    assert!(answer.contains(" OK"), "{answer}");
}
