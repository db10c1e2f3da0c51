use std::path::PathBuf;
use std::time::Duration;

use super::super::{Config, OnError, RedisAddress, RedisPlace};
use super::{accepted, refusal, value};
use crate::engine::config::{ClusterSettings, parse_host};

fn with(keys: &str) -> String {
    format!("{{targets: [], cluster: {{{keys}}}}}")
}

fn cluster(keys: &str) -> ClusterSettings {
    ClusterSettings::clone(&accepted(&with(keys)).cluster.unwrap())
}

fn at(host: &str, port: u16) -> RedisAddress {
    RedisAddress {
        host: parse_host(host).unwrap(),
        port,
    }
}

#[test]
fn an_address_says_where_redis_is() {
    for (text, place, database, tls) in [
        (
            "redis://r.example",
            RedisPlace::Tcp(at("r.example", 6379)),
            0,
            false,
        ),
        (
            "redis://r.example:7000/3",
            RedisPlace::Tcp(at("r.example", 7000)),
            3,
            false,
        ),
        (
            "rediss://[2001:db8::1]",
            RedisPlace::Tcp(at("2001:db8::1", 6379)),
            0,
            true,
        ),
        (
            "rediss://[2001:db8::1]:7000/",
            RedisPlace::Tcp(at("2001:db8::1", 7000)),
            0,
            true,
        ),
        (
            "unix:/run/redis/redis.sock",
            RedisPlace::Unix("/run/redis/redis.sock".into()),
            0,
            false,
        ),
        (
            "unix:///run/redis.sock",
            RedisPlace::Unix("/run/redis.sock".into()),
            0,
            false,
        ),
        (
            "redis+sentinel://a.example,192.0.2.1:26380/mail/2",
            RedisPlace::Sentinel {
                sentinels: vec![at("a.example", 26379), at("192.0.2.1", 26380)],
                service: "mail".into(),
            },
            2,
            false,
        ),
    ] {
        let settings = cluster(&format!("redis: \"{text}\""));
        assert_eq!(
            (settings.redis, settings.database, settings.tls),
            (place, database, tls),
            "{text}"
        );
    }
}

#[test]
fn defaults_are_the_promised_ones() {
    let settings = cluster("redis: \"redis://localhost\"");
    assert_eq!(settings.prefix, "nauthilus_backend");
    assert_eq!(settings.timeout, Duration::from_millis(100));
    assert_eq!(settings.retention, Duration::from_secs(86_400));
    assert_eq!(settings.on_error, OnError::Remembered);
    assert!(settings.moves_on_failure && !settings.needs_quorum);
    assert_eq!(settings.move_delay, Duration::ZERO);
    assert_eq!(settings.min_stay, Duration::from_secs(30));
    assert_eq!(accepted("{targets: []}").cluster, None);
}

#[test]
fn what_is_no_redis_is_refused_without_its_text() {
    let general = "redis://host[:port][/database], rediss://host[:port][/database], unix:/path or redis+sentinel://host:port[,host:port…]/service expected, got another form";
    let password = "no user and no password expected in it: use username and password_file";
    for (text, problem) in [
        ("http://r.example", general),
        ("r.example:6379", general),
        ("redis://r.example?db=1", general),
        ("redis+sentinel://r.example", general),
        ("redis://:s3cret@r.example", password),
        ("rediss://user:s3cret@r.example", password),
        (
            "redis://r.example:0",
            "host, host:port or [IPv6]:port expected in it",
        ),
        (
            "redis://2001:db8::1",
            "host, host:port or [IPv6]:port expected in it",
        ),
        ("redis://", "host, host:port or [IPv6]:port expected in it"),
        (
            "redis://r.example/mail",
            "the number of a database expected at its end",
        ),
        (
            "unix:relative",
            "unix: with an absolute path of 2..107 bytes expected",
        ),
        (
            "redis+sentinel://r.example/",
            "the name of the service expected after the Sentinels",
        ),
    ] {
        let problem = format!("cluster.redis: {problem}");
        assert_eq!(
            refusal(&with(&format!("redis: \"{text}\""))),
            problem,
            "{text}"
        );
    }
    let nothing = refusal(&with("prefix: p"));
    assert!(nothing.starts_with("cluster.redis: redis://"), "{nothing}");
}

#[test]
fn keys_of_the_table_are_checked_like_others() {
    let redis = "redis: \"redis://localhost\"";
    for (keys, problem) in [
        ("timout: 1s", "timout: unknown key; did you mean timeout?"),
        (
            "weight: 1",
            "weight: unknown key of cluster; it belongs to a target",
        ),
        (
            "log: none",
            "log: unknown key of cluster; it belongs to the service section",
        ),
        (
            "prefix: \"a{b}\"",
            "prefix: string of 1..64 visible ASCII characters without braces expected, got \"a{b}\"",
        ),
        (
            "on_error: guess",
            "on_error: one of remembered, hash, refuse expected, got \"guess\"",
        ),
        (
            "timeout: 0s",
            "timeout: duration 1ms..10s expected, got \"0s\"",
        ),
        ("username: u", "username: password_file has to be given too"),
        (
            "tls_ca_file: /ca.pem",
            "tls_ca_file: has no effect without TLS (redis: rediss://…)",
        ),
        (
            "sentinel_password_file: /p",
            "sentinel_password_file: is for redis: redis+sentinel://… only",
        ),
    ] {
        let text = with(&format!("{redis}, {keys}"));
        assert_eq!(refusal(&text), format!("cluster.{problem}"));
    }
    assert_eq!(
        refusal("{targets: [], cluster: redis}"),
        "cluster: table expected, got string"
    );
    assert_eq!(
        refusal("{targets: [], redis: x}"),
        "redis: unknown key of the service section; it belongs to cluster"
    );
}

/// A file in a folder of this process, with this content.
fn file(name: &str, content: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("nb-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn with_files(keys: &str) -> Result<Config, String> {
    let text = with(&format!("redis: \"redis://localhost\", {keys}"));
    let config = Config::from_value(&value(&text)).unwrap();
    config.with_files().map_err(|error| error.to_string())
}

#[test]
fn files_are_read_when_the_configuration_is_put_in_force() {
    let (password, key) = (file("password", "s3cret\r\nmore\n"), file("key", "hmac\n"));
    let keys = format!(
        "username: u, password_file: {}, key_file: {}",
        password.display(),
        key.display()
    );
    let config = with_files(&keys).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
    let files = &config.cluster.unwrap().files;
    assert_eq!(files.password.as_ref().unwrap().expose(), "s3cret");
    assert_eq!(files.hmac_key.as_ref().unwrap().as_slice(), b"hmac");
    for (keys, problem) in [
        (
            "password_file: /nonexistent/p".to_owned(),
            "cluster.password_file: /nonexistent/p: no such file".to_owned(),
        ),
        (
            format!("password_file: {}", file("empty", "\nx").display()),
            format!(
                "cluster.password_file: {}: a first line of 1..1024 bytes of UTF-8 expected",
                file("empty", "\nx").display()
            ),
        ),
        (
            format!("key_file: {}", file("none", "\n").display()),
            format!(
                "cluster.key_file: {}: a key expected, got an empty file",
                file("none", "\n").display()
            ),
        ),
    ] {
        assert_eq!(with_files(&keys).err(), Some(problem));
    }
}
