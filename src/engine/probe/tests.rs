use socket2::{Domain, Socket, Type};

use super::*;
use crate::engine::target::Protocol;

/// A listener whose backlog is full, so that new connections get no answer.
fn deaf_listener(address: IpAddr) -> (Socket, Vec<Socket>, u16) {
    deaf_listener_at(address, 0)
}

fn deaf_listener_at(address: IpAddr, port: u16) -> (Socket, Vec<Socket>, u16) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::new(address, port);
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let at = listener.local_addr().unwrap();
    let clients = [(); 4].map(|()| {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&at);
        client
    });
    let port = at.as_socket().unwrap().port();
    (listener, clients.into(), port)
}

#[tokio::test]
async fn a_silent_address_beside_one_that_could_not_be_tried_says_nothing() {
    let untried = IpAddr::from([127, 0, 0, 2]);
    let (_listener, _clients, port) = deaf_listener(IpAddr::from([127, 0, 0, 3]));
    let prober = Prober {
        resolver: Resolver::asking(|_| {
            Ok([2, 3].map(|last| IpAddr::from([127, 0, 0, last])).into())
        }),
        ..Prober::default()
    };
    let target = Target {
        host: Host::Name("mx".into()),
        port,
        connect_timeout: Duration::from_millis(300),
        ..dialogue::testing::target(Protocol::Smtp)
    };
    for (stage, is_conclusive) in [(Stage::Internal, false), (Stage::Connect, true)] {
        let error = ProbeError::new(stage, "no");
        let begun = Underway {
            is_known: Arc::default(),
            started: Instant::now(),
            first: Some((untried, Dialled::Failed(error))),
        };
        let outcome = prober
            .finish(begun, &target, Depth::Connect, None, None)
            .await;
        assert_eq!(outcome.is_conclusive(), is_conclusive, "{outcome:?}");
        let is_timeout = outcome.result.as_ref().unwrap_err().is_timeout;
        assert_eq!(is_timeout, is_conclusive, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_good_address_is_found_behind_many_silent_ones() {
    // Only the last address answers.
    let addresses = || (2..=51).map(|last| IpAddr::from([127, 0, 0, last]));
    let good = std::net::TcpListener::bind(("127.0.0.51", 0)).unwrap();
    let port = good.local_addr().unwrap().port();
    let _silent: Vec<_> = addresses()
        .take(49)
        .map(|address| deaf_listener_at(address, port))
        .collect();
    let prober = Prober {
        resolver: Resolver::asking(|_| {
            let all: Vec<IpAddr> = (2..=51)
                .map(|last| IpAddr::from([127, 0, 0, last]))
                .collect();
            Ok(all.into())
        }),
        ..Prober::default()
    };
    let target = Target {
        host: Host::Name("mx".into()),
        port,
        connect_timeout: Duration::from_secs(20),
        ..dialogue::testing::target(Protocol::Smtp)
    };
    let outcome = prober.run(&target, Depth::Connect, None).await;
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.address, addresses().next_back());
}

#[tokio::test]
async fn a_name_with_many_silent_addresses_takes_few_descriptors_and_is_judged() {
    let addresses = || (52..=91).map(|last| IpAddr::from([127, 0, 0, last]));
    let first = deaf_listener(IpAddr::from([127, 0, 0, 52]));
    let port = first.2;
    let others = addresses().skip(1);
    let _others: Vec<_> = others
        .map(|address| deaf_listener_at(address, port))
        .collect();
    let target = Target {
        host: Host::Name("mx".into()),
        port,
        connect_timeout: Duration::from_secs(2),
        ..dialogue::testing::target(Protocol::Smtp)
    };
    // Below its limit a process may have all attempts of a probe, beyond it one for each probe.
    for (limit, most_allowed) in [(usize::MAX, 8), (0, 1)] {
        let prober = Prober {
            resolver: Resolver::asking(|_| {
                let all = (52..=91).map(|last| IpAddr::from([127, 0, 0, last]));
                Ok(all.collect())
            }),
            ..Prober::default()
        };
        prober.limit_connections(limit);
        let mut most = 0;
        let watching = async {
            loop {
                most = most.max(prober.connections.held());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let outcome = tokio::select! {
            outcome = prober.run(&target, Depth::Connect, None) => outcome,
            () = watching => unreachable!(),
        };
        assert!(outcome.result.unwrap_err().is_timeout);
        assert!((1..=most_allowed).contains(&most), "{most} connections");
    }
}

#[tokio::test]
async fn a_good_address_is_found_behind_a_silent_one_without_a_second_connection() {
    let (_silent, _clients, port) = deaf_listener(IpAddr::from([127, 0, 0, 92]));
    let good = IpAddr::from([127, 0, 0, 93]);
    let _good = std::net::TcpListener::bind((good, port)).unwrap();
    let prober = Prober {
        resolver: Resolver::asking(|_| {
            Ok([92, 93].map(|last| IpAddr::from([127, 0, 0, last])).into())
        }),
        ..Prober::default()
    };
    prober.limit_connections(0);
    let target = Target {
        host: Host::Name("mx".into()),
        port,
        connect_timeout: Duration::from_secs(6),
        ..dialogue::testing::target(Protocol::Smtp)
    };
    let outcome = prober.run(&target, Depth::Connect, None).await;
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.address, Some(good));
}

#[tokio::test]
async fn a_server_that_moved_is_found_by_the_probe_that_its_old_address_does_not_answer() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static MOVED: AtomicBool = AtomicBool::new(false);
    let (_silent, _clients, port) = deaf_listener(IpAddr::from([127, 0, 0, 4]));
    let new = std::net::TcpListener::bind(("127.0.0.5", port)).unwrap();
    let prober = Prober {
        resolver: Resolver::asking(|_| {
            let last = if MOVED.load(Ordering::Relaxed) { 5 } else { 4 };
            Ok([IpAddr::from([127, 0, 0, last])].into())
        }),
        ..Prober::default()
    };
    let target = Target {
        host: Host::Name("mx".into()),
        port,
        connect_timeout: Duration::from_secs(2),
        ..dialogue::testing::target(Protocol::Smtp)
    };
    let probe = async || prober.run(&target, Depth::Connect, None).await;
    assert!(probe().await.result.unwrap_err().is_timeout);
    MOVED.store(true, Ordering::Relaxed);
    let found = probe().await;
    assert_eq!(found.result, Ok(()));
    assert_eq!(found.address, Some(IpAddr::from([127, 0, 0, 5])));
    drop(new);
}
