//! One connection to Redis: where it is, the login, and calls of scripts on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value, cmd};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use super::duplex::{Dialler, Duplex, unix};
use super::redis_clock::RedisClock;
use super::traffic::Traffic;
use crate::engine::config::{ClusterSettings, RedisAddress, RedisPlace, parse_host};
use crate::engine::verdicts::digest::sha1;
use crate::sys::clock::monotonic_us;
use crate::sys::relay::relayed;

/// The longest time for connecting, with TLS and the login to Redis.
pub(super) const CONNECT_TIME: Duration = Duration::from_millis(900);

/// How long one Sentinel may take before the next one is asked.
const SENTINEL_TIME: Duration = Duration::from_millis(300);

/// How long one attempt to connect may ask Sentinels: two of them if they do not answer. The rest of
/// [`CONNECT_TIME`] is for the server. The next attempt goes on with the next Sentinel.
const SENTINELS_TIME: Duration = Duration::from_millis(700);

/// How many calls are on their way at the same time. Enough to keep Redis busy over 10 ms of network; and so few that
/// Redis answers all of them within a small part of the default timeout. What is more waits here, where it costs
/// Redis nothing if its time ends.
const IN_FLIGHT: usize = 128;

/// A connection that is logged in. Calls on it are pipelined.
pub(super) struct Connection {
    calls: MultiplexedConnection,
    driver: JoinHandle<()>,
    pub(super) clock: RedisClock,
    pub(super) traffic: Arc<Traffic>,
    /// A permit for each call that may be on its way: see [`IN_FLIGHT`].
    permits: Semaphore,
    /// The digests of the scripts that were run. They belong to the connection, not to the process: a
    /// child must not inherit a lock that another thread of its parent holds.
    digests: Mutex<Vec<(&'static str, Box<str>)>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Makes calls in flight fail at once.
        self.driver.abort();
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError(pub String);

impl CallError {
    /// Whether Redis answers, but has no memory for what the call would write. Redis 6 reports the failure of
    /// a script as an error of its own kind, so the text tells.
    pub(super) fn is_want_of_memory(&self) -> bool {
        self.0.contains("OOM") && self.0.contains("command not allowed when used memory")
    }
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        Self(one_line(&error.to_string()))
    }
}

/// Puts a server's error on one line, as the log needs it, and cuts it: scripts and `status()` get it, too.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

impl Connection {
    /// Connects and logs in. The caller bounds the time by [`CONNECT_TIME`].
    ///
    /// # Errors
    /// One line that says what failed, without a secret.
    pub(super) async fn open(
        settings: &ClusterSettings,
        dialler: &Dialler,
    ) -> Result<Self, CallError> {
        let wire = match &settings.redis {
            RedisPlace::Tcp(address) => {
                let wire = dialler.tcp(address, CONNECT_TIME).await;
                wire.map_err(CallError)?
            }
            RedisPlace::Unix(path) => unix(path).map_err(CallError)?,
            RedisPlace::Sentinel { sentinels, service } => {
                let master = find_master(settings, dialler, sentinels, service).await?;
                let wire = dialler.tcp(&master, CONNECT_TIME - SENTINELS_TIME).await;
                wire.map_err(CallError)?
            }
        };
        let mut login = RedisConnectionInfo::default()
            .set_skip_set_lib_name()
            .set_db(settings.database.into());
        if let Some(username) = &settings.username {
            login = login.set_username(username);
        }
        if let Some(password) = &settings.files.password {
            login = login.set_password(password.expose());
        }
        let connection = Self::over(wire, &login).await?;
        if matches!(settings.redis, RedisPlace::Sentinel { .. }) {
            // A Sentinel may not have noticed yet that another server has taken over.
            connection.expect_master().await?;
        }
        connection.measure_clock().await?;
        Ok(connection)
    }

    async fn over(wire: Duplex, login: &RedisConnectionInfo) -> Result<Self, CallError> {
        // Each call has a deadline of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let traffic = wire.traffic();
        let (calls, driver) = MultiplexedConnection::new_with_config(login, wire, config).await?;
        Ok(Self {
            calls,
            driver: tokio::spawn(relayed(driver)),
            clock: RedisClock::default(),
            traffic,
            permits: Semaphore::new(IN_FLIGHT),
            digests: Mutex::default(),
        })
    }

    /// Waits until a call may be sent. It may be on its way as long as the caller has what this returns.
    pub(super) async fn permit(&self) -> Result<SemaphorePermit<'_>, CallError> {
        let permit = self.permits.acquire().await;
        permit.map_err(|_| CallError("the connection was closed".to_owned()))
    }

    /// Whether the peer has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    async fn expect_master(&self) -> Result<(), CallError> {
        let answer = self.send(&cmd("ROLE")).await?;
        let is_master = matches!(
            &answer,
            Value::Array(items) if matches!(items.first(), Some(Value::BulkString(role)) if role == b"master")
        );
        if is_master {
            return Ok(());
        }
        Err(CallError("the server is not the master yet".to_owned()))
    }

    pub(super) async fn measure_clock(&self) -> Result<(), CallError> {
        let asked = monotonic_us();
        let answer = self.send(&cmd("TIME")).await?;
        let (seconds, micros): (u64, u64) = redis::from_redis_value(answer)
            .map_err(|_| CallError("TIME: two numbers expected".to_owned()))?;
        let now = seconds.saturating_mul(1_000_000).saturating_add(micros);
        self.clock.measured(asked, now);
        Ok(())
    }

    fn digest_of(&self, source: &'static str) -> Box<str> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = digests
            .iter()
            .find(|(known, _)| std::ptr::eq(*known, source))
        {
            return digest.clone();
        }
        let digest = script_digest(source);
        digests.push((source, digest.clone()));
        digest
    }

    /// Sends one command. An error that the server answers is an error here.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.calls.clone().send_packed_command(command).await?;
        answer.extract_error()
    }

    /// Runs a script. Sends its source if the server does not have it yet.
    ///
    /// # Errors
    /// The server returned an error, or the connection is lost.
    pub(super) async fn run(
        &self,
        source: &'static str,
        keys: &[Vec<u8>],
        arguments: &[Vec<u8>],
    ) -> Result<Value, CallError> {
        let command = |name: &str, script: &[u8]| {
            let mut command = cmd(name);
            command.arg(script).arg(keys.len());
            for part in keys.iter().chain(arguments) {
                command.arg(part.as_slice());
            }
            command
        };
        let digest = self.digest_of(source);
        Ok(
            match self.send(&command("EVALSHA", digest.as_bytes())).await {
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    self.send(&command("EVAL", source.as_bytes())).await?
                }
                answer => answer?,
            },
        )
    }
}

/// SHA-1 of a script, by which Redis knows it.
fn script_digest(source: &str) -> Box<str> {
    // Empty if OpenSSL refuses SHA-1. The server then finds no script with this digest, and gets the source
    // with each call.
    sha1(source.as_bytes())
        .iter()
        .flatten()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// Asks the Sentinels in turn which server is the master: a Sentinel that does not answer, or that has not
/// noticed a failover, does not keep an attempt for ever from those after it.
async fn find_master(
    settings: &ClusterSettings,
    dialler: &Dialler,
    sentinels: &[RedisAddress],
    service: &str,
) -> Result<RedisAddress, CallError> {
    let begun = Instant::now();
    let mut problems = Vec::new();
    while problems.len() < sentinels.len() && begun.elapsed() + SENTINEL_TIME <= SENTINELS_TIME {
        let Some(sentinel) = dialler.next_of(sentinels) else {
            break;
        };
        let asked = ask_sentinel(settings, dialler, sentinel, service);
        let problem = match tokio::time::timeout(SENTINEL_TIME, asked).await {
            Ok(Ok(master)) => return Ok(master),
            Ok(Err(CallError(error))) => error,
            Err(_) => "no answer".to_owned(),
        };
        problems.push(format!(
            "Sentinel {}:{}: {problem}",
            sentinel.host, sentinel.port
        ));
    }
    Err(CallError(problems.join("; ")))
}

async fn ask_sentinel(
    settings: &ClusterSettings,
    dialler: &Dialler,
    sentinel: &RedisAddress,
    service: &str,
) -> Result<RedisAddress, CallError> {
    let wire = dialler
        .tcp(sentinel, SENTINEL_TIME)
        .await
        .map_err(CallError)?;
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(password) = &settings.files.sentinel_password {
        login = login.set_password(password.expose());
    }
    let connection = Connection::over(wire, &login).await?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let answer = connection.send(&question).await?;
    let master: Option<(String, u16)> = redis::from_redis_value(answer)
        .map_err(|_| CallError("host and port expected".to_owned()))?;
    let (host, port) = master.ok_or_else(|| CallError(format!("knows no service {service:?}")))?;
    let host = parse_host(&host).map_err(CallError)?;
    Ok(RedisAddress { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_server_is_one_short_line() {
        assert_eq!(
            one_line(" WRONGPASS\r\n\u{1b}[31mno\u{9b} "),
            "WRONGPASS [31mno"
        );
        assert_eq!(one_line(&"é".repeat(500)), "é".repeat(500));
        assert_eq!(one_line(&"é".repeat(9000)), "é".repeat(500) + "...");
    }
}
