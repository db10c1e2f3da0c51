//! The baseline of the deep check: one IMAP login over TLS after the other, a blocking client
//! written with the same crates in the plainest way, each with a handshake that verifies the certificate:
//! `straight PORT CA-FILE COUNT PAUSE-MS openssl|rustls full|resumed`. OpenSSL resumes nothing
//! here. Prints nanoseconds of CPU per login.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::ssl::{SslConnector, SslMethod};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

enum Client {
    Openssl(SslConnector),
    Rustls(Arc<ClientConfig>, bool),
}

impl Client {
    fn new(library: &str, ca_file: &str, resumes: bool) -> Self {
        if library == "openssl" {
            assert!(!resumes, "not here");
            let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
            builder.set_ca_file(ca_file).unwrap();
            return Self::Openssl(builder.build());
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca_file).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Self::Rustls(Arc::new(config), resumes)
    }

    fn connect(&self, port: u16, is_first: bool) -> Box<dyn Stream> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        match self {
            Self::Openssl(connector) => Box::new(connector.connect("127.0.0.1", socket).unwrap()),
            Self::Rustls(config, resumes) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                let mut tls = ClientConnection::new(config.clone(), name).unwrap();
                while tls.is_handshaking() {
                    tls.complete_io(&mut socket).unwrap();
                }
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                assert_eq!(resumed, *resumes && !is_first);
                Box::new(StreamOwned::new(tls, socket))
            }
        }
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
    let [port, ca_file, count, pause, library, handshakes] = arguments.as_slice() else {
        eprintln!("usage: straight PORT CA-FILE COUNT PAUSE-MS openssl|rustls full|resumed");
        return;
    };
    let client = Client::new(library, ca_file, handshakes == "resumed");
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

/// CPU time of this thread, which is the only one.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends one command and reads up to its good answer.
fn command(stream: &mut BufReader<Box<dyn Stream>>, tag: &str, text: &str) {
    let line = format!("{tag} {text}\r\n");
    stream.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.starts_with(tag) {
        answer.clear();
        assert!(stream.read_line(&mut answer).unwrap() > 0, "it hung up");
    }
    assert!(answer.contains(" OK"), "{answer}");
}
