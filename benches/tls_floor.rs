//! lab version
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nauthilus_backend::sys::tls_session::Resumable;
use openssl::ssl::*;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, ca_file, kind, count, rate] = arguments.as_slice() else {
        return;
    };
    let port: u16 = port.parse().unwrap();
    let count: u32 = count.parse().unwrap();
    let rate: f64 = rate.parse().unwrap();
    let env = |n: &str| std::env::var(n).ok();
    let mut b = SslContext::builder(SslMethod::tls_client()).unwrap();
    b.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    b.set_ca_file(ca_file).unwrap();
    b.set_verify(if env("NOVERIFY").is_some() {
        SslVerifyMode::NONE
    } else {
        SslVerifyMode::PEER
    });
    b.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    if env("AHEAD").is_some() {
        b.set_read_ahead(true);
    }
    if let Some(g) = env("GROUPS") {
        b.set_groups_list(&g).unwrap();
    }
    if let Some(g) = env("SIGALGS") {
        b.set_sigalgs_list(&g).unwrap();
    }
    if let Some(g) = env("CIPHERS") {
        b.set_cipher_list(&g).unwrap();
    }
    if let Some(g) = env("SUITES") {
        b.set_ciphersuites(&g).unwrap();
    }
    if let Some(g) = env("MAX") {
        b.set_max_proto_version(Some(if g == "1.2" {
            SslVersion::TLS1_2
        } else {
            SslVersion::TLS1_3
        }))
        .unwrap();
    }
    let got: Arc<Mutex<Option<Resumable>>> = Arc::default();
    let to = got.clone();
    b.set_new_session_callback(move |ssl, session| {
        *to.lock().unwrap() =
            Some(Resumable::new(&ssl.ssl_context().to_owned(), &session).unwrap());
    });
    let context = b.build();
    let mut kept: Vec<Option<Resumable>> = (0..200).map(|_| None).collect();
    let mut resumed = 0;
    let mut one = |i: u32| {
        let i = (i % 200) as usize;
        let s = TcpStream::connect((Ipv4Addr::new(127, 1, 0, 1 + i as u8), port)).unwrap();
        s.set_nodelay(true).unwrap();
        let session = if kind == "resumed" {
            kept[i].take()
        } else {
            None
        };
        let mut ssl = match &session {
            Some(r) => r.connection().unwrap(),
            None => Ssl::new(&context).unwrap(),
        };
        ssl.set_hostname("localhost").unwrap();
        ssl.param_mut().set_host("localhost").unwrap();
        let mut s = SslStream::new(ssl, s).unwrap();
        s.connect().unwrap();
        resumed += u32::from(s.ssl().session_reused());
        if kind == "resumed" {
            if s.ssl().version2() == Some(SslVersion::TLS1_3)
                && !(env("REUSE").is_some() && s.ssl().session_reused())
            {
                let mut x = [0; 512];
                let _ = s.read(&mut x).unwrap();
            }
            kept[i] = got.lock().unwrap().take().or(session);
        }
        if env("NOBYE").is_none() {
            let _ = s.shutdown();
        } else {
            let _ = socket2::SockRef::from(s.get_ref()).set_linger(Some(Duration::ZERO));
        }
    };
    for i in 0..200 {
        one(i);
    }
    let cpu = cpu_ns();
    let start = Instant::now();
    for i in 0..count {
        if rate > 0.0 {
            let due = start + Duration::from_secs_f64(f64::from(i) / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        one(i);
    }
    let cpu = cpu_ns() - cpu;
    println!("{} {}", cpu / u64::from(count), resumed);
}

fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}
