//! A `redis-server` of a test's own, and a clock for its scripts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nauthilus_backend::engine::cluster::script::{ScriptCall, UserDigest, user_record};
use redis::{Connection, Value};

/// The prefix of the tests' keys. Its special characters have no meaning for `SCAN`.
pub(crate) const PREFIX: &str = "mail*[1]";

/// The clock's first time, in microseconds: in the year 2100, so that Redis, which has the real
/// clock, never removes a key of a test.
pub(crate) const START: u64 = 4_102_444_800 * SECOND;
pub(crate) const SECOND: u64 = 1_000_000;

/// What a script reads the clock with, and what the tests put in its place.
const CLOCK: &str = "redis.call('TIME')";
const TEST_CLOCK: &str = "redis.call('HMGET', '{mail*[1]}:test clock', 's', 'us')";

/// What a script computes a digest with, and what counts the calls.
const DIGEST: &str = "redis.sha1hex(";
const COUNTED_DIGEST: &str = "(function(text)
    redis.call('INCR', '{mail*[1]}:test digests')
    return redis.sha1hex(text)
end)(";

pub(crate) struct Server {
    process: Child,
    directory: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) now: u64,
}

impl Server {
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bindings-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket".as_ref(), socket.as_os_str()])
            .args(["--dir".as_ref(), directory.as_os_str()])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let client = redis::Client::open(format!("unix:{}", socket.display())).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) if Instant::now() > end => panic!("redis-server: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut server = Self {
            process,
            directory,
            connection,
            now: START,
        };
        server.set_clock(START);
        server
    }

    pub(crate) fn set_clock(&mut self, now: u64) {
        self.now = now;
        let (seconds, rest) = (now / SECOND, now % SECOND);
        self.command(&[
            "HSET",
            "{mail*[1]}:test clock",
            "s",
            &seconds.to_string(),
            "us",
            &rest.to_string(),
        ])
        .unwrap();
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.set_clock(self.now + seconds * SECOND);
    }

    /// Removes the users' records that have ended by the tests' clock: Redis has another one.
    pub(crate) fn remove_ended(&mut self) {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*:user:*")
            .query(&mut self.connection)
            .unwrap();
        for key in keys {
            let mut left = redis::cmd("PTTL");
            let left: i64 = left.arg(&key).query(&mut self.connection).unwrap();
            let (seconds, us): (u64, u64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
            // Negative: it has no end.
            let ends = u64::try_from(left).map(|left| left * 1_000 + seconds * SECOND + us);
            if ends.is_ok_and(|ends| ends <= self.now) {
                self.command(&["DEL", &key]).unwrap();
            }
        }
    }

    /// Empties the store; the clock goes on.
    pub(crate) fn empty(&mut self) {
        self.command(&["FLUSHALL"]).unwrap();
        self.set_clock(self.now);
    }

    pub(crate) fn command(&mut self, words: &[&str]) -> redis::RedisResult<Value> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.connection)
    }

    /// Runs a script under the tests' clock.
    pub(crate) fn try_run<C: ScriptCall>(&mut self, call: &C) -> redis::RedisResult<C::Answer> {
        assert_eq!(C::SOURCE.matches(CLOCK).count(), 1);
        let mut command = redis::cmd("EVAL");
        let keys = call.keys(PREFIX);
        let source = C::SOURCE.replace(CLOCK, TEST_CLOCK);
        command
            .arg(source.replace(DIGEST, COUNTED_DIGEST))
            .arg(keys.len());
        for word in keys.into_iter().chain(call.arguments()) {
            command.arg(word);
        }
        let answer: Value = command.query(&mut self.connection)?;
        Ok(call
            .parse(answer.clone())
            .unwrap_or_else(|bad| panic!("{bad:?}: {answer:?}")))
    }

    pub(crate) fn run<C: ScriptCall>(&mut self, call: &C) -> C::Answer {
        self.try_run(call).unwrap()
    }

    /// How many digests scripts have computed since the last call.
    pub(crate) fn digests(&mut self) -> u64 {
        let count: Option<u64> = redis::cmd("GETDEL")
            .arg("{mail*[1]}:test digests")
            .query(&mut self.connection)
            .unwrap();
        count.unwrap_or(0)
    }

    /// A field of a user's record; empty where there is none.
    pub(crate) fn field(&mut self, user: &UserDigest, name: &str) -> String {
        let mut command = redis::cmd("HGET");
        command.arg(user_record(PREFIX, user)).arg(name);
        command
            .query::<Option<String>>(&mut self.connection)
            .unwrap()
            .unwrap_or_default()
    }

    pub(crate) fn number(&mut self, user: &UserDigest, name: &str) -> u64 {
        self.field(user, name).parse().unwrap_or(0)
    }

    /// Everything in the store but what is the tests' own, in a stable order.
    pub(crate) fn dump(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query(&mut self.connection)
            .unwrap();
        for key in keys.into_iter().filter(|key| !key.contains(":test ")) {
            let kind: String = redis::cmd("TYPE")
                .arg(&key)
                .query(&mut self.connection)
                .unwrap();
            let content = match kind.as_str() {
                "hash" => self.command(&["HGETALL", &key]),
                "zset" => self.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]),
                other => panic!("a key of type {other}: {key}"),
            };
            all.push(format!("{key} {:?}", content.unwrap()));
        }
        all.sort();
        all
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
