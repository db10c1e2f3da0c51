//! The CPU time that OpenSSL needs for the connections of the TLS rows: it makes them one after the other on
//! blocking sockets, without a runtime, timers or verdicts.
//! `tls_floor PORT CA-FILE resumed|full TARGETS COUNT PER-SECOND`; With 0 per second it makes them
//! as fast as possible. The targets are addresses of loopback with that port, each with a session of its
//! own. Prints nanoseconds of CPU per connection, and how many of them were resumed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nauthilus_backend::sys::tls_session::{self, Resumable};
use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use socket2::SockRef;

struct Client {
    context: SslContext,
    port: u16,
    resumes: bool,
    /// By target.
    sessions: Vec<Option<Resumable>>,
    /// The last session that a server gave.
    given: Arc<Mutex<Option<Resumable>>>,
    resumed: usize,
}

impl Client {
    fn new(port: u16, ca_file: &str, resumes: bool, targets: usize) -> Self {
        let given = Arc::<Mutex<Option<Resumable>>>::default();
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder
            .set_min_proto_version(Some(SslVersion::TLS1_2))
            .unwrap();
        builder.set_ca_file(ca_file).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        builder.set_read_ahead(true);
        builder
            .set_ciphersuites("TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
            .unwrap();
        builder
            .set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let take = given.clone();
        tls_session::on_new(&mut builder, move |session| {
            *take.lock().unwrap() = Some(session.copy().unwrap());
        });
        Self {
            context: builder.build(),
            port,
            resumes,
            sessions: (0..targets).map(|_| None).collect(),
            given,
            resumed: 0,
        }
    }

    fn connect(&mut self, target: usize) {
        let mut ssl = match &self.sessions[target] {
            Some(session) => {
                let mut ssl = session.connection().unwrap();
                ssl.set_max_proto_version(Some(session.version())).unwrap();
                ssl
            }
            None => Ssl::new(&self.context).unwrap(),
        };
        ssl.set_hostname("localhost").unwrap();
        ssl.param_mut().set_host("localhost").unwrap();
        let offset = u32::try_from(target).unwrap();
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + offset);
        let socket = TcpStream::connect(SocketAddrV4::new(address, self.port)).unwrap();
        SockRef::from(&socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        let mut stream = SslStream::new(ssl, socket).unwrap();
        stream.connect().unwrap();
        self.resumed += usize::from(stream.ssl().session_reused());
        if self.resumes && self.sessions[target].is_none() {
            // A ticket of TLS 1.3 comes before the server's first word.
            stream.read_exact(&mut [0]).unwrap();
            self.sessions[target] = self.given.lock().unwrap().take();
        }
        let _ = stream.shutdown();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, ca_file, what, targets, count, rate] = arguments.as_slice() else {
        eprintln!("usage: tls_floor PORT CA-FILE resumed|full TARGETS COUNT PER-SECOND");
        return;
    };
    let targets: usize = targets.parse().unwrap();
    let count: usize = count.parse().unwrap();
    let rate: f64 = rate.parse().unwrap();
    let mut client = Client::new(port.parse().unwrap(), ca_file, what == "resumed", targets);
    for target in 0..targets {
        client.connect(target);
    }
    client.resumed = 0;
    let (cpu, started) = (cpu_ns(), Instant::now());
    for number in 0..count {
        if rate > 0.0 {
            let due = Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        client.connect(number % targets);
    }
    println!("{} {}", (cpu_ns() - cpu) / count as u64, client.resumed);
}

/// CPU time of this thread, which is the only one.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}
