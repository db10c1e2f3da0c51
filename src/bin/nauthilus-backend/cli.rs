//! The subcommands and their options. Help, man pages and completions are made from this file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nauthilus_backend::engine::config::parse_duration;
use nauthilus_backend::sys::user;

/// Checks mail and web backends, and shows and sets what nauthilus_backend knows of them
///
/// Exit status: 0 good, 1 bad (a check failed, a file has mistakes, an engine refused or did not
/// answer), 2 wrong usage. NO_COLOR switches colours off; they are off in pipes.
#[derive(Parser)]
#[command(name = "nauthilus-backend", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) word: CommandWord,
}

#[derive(Subcommand)]
pub(crate) enum CommandWord {
    Check(CheckArgs),
    Validate(ValidateArgs),
    Watch(WatchArgs),
    Route(RouteArgs),
    Nodes(NodesArgs),
    Events(EventsArgs),
    Metrics(MetricsArgs),
    /// Take a target or a node out of the list, which keeps the users that it has
    ///
    /// The engine that keeps the state file sets it, for all that share the file, and on all machines
    /// of a cluster. Where none answers, or no state file is configured, the command sets it in the
    /// Redis of the cluster itself. Probes go on.
    Drain(SetArgs),
    /// Take a target or a node out of the list, and its users with it
    ///
    /// The engine that keeps the state file sets it, for all that share the file, and on all machines
    /// of a cluster. Where none answers, or no state file is configured, the command sets it in the
    /// Redis of the cluster itself. Probes go on.
    Maintenance(SetArgs),
    /// End drain and maintenance of a target or a node: probes decide again
    Auto(SetArgs),
    Move(MoveArgs),
    Forget(UserArgs),
    Hold(HoldArgs),
    Flush(FlushArgs),
    Touch(TouchArgs),
    Completion(CompletionArgs),
    #[command(hide = true)]
    Manual(ManualArgs),
}

/// Check servers now, and show each stage with its time
///
/// Makes the probe that the engine makes: resolves the name, connects, starts TLS, holds the
/// dialogue of the protocol and logs in where a user is given. Shows the certificate, what the
/// server offers, and what to do about a failure.
///
/// URL: SCHEME://[USER@]HOST[:PORT][/PATH]. Schemes: imap, pop3, smtp, lmtp, sieve, http; with `s`
/// behind it TLS starts with the first byte (imaps, https); with `+starttls` it starts after the
/// protocol's own command (imap+starttls), with `+plain` never. `sieve` alone is sieve+starttls.
/// PATH is the request of http, and of imap the mailbox that is opened read-only. Characters of
/// USER and PATH may be percent-encoded.
///
/// The password of USER comes from the environment variable NAUTHILUS_BACKEND_PASSWORD, from
/// --password-file, or from a prompt. It is never an argument: others could read it there.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// What to check, for example imaps://alice@mail.example.org
    #[arg(value_name = "URL", required = true)]
    pub(crate) urls: Vec<String>,
    /// Print one JSON object per URL
    #[arg(long)]
    pub(crate) json: bool,
    /// Check so many times, and show minimum, median and maximum
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = |text: &str| number::<u32>(text, 1, 100_000))]
    pub(crate) repeat: u32,
    /// Connect, and make the TLS handshake of `imaps` and the like, but send no command of the protocol
    #[arg(long)]
    pub(crate) connect_only: bool,
    /// The longest time for connecting, for TLS and for the dialogue, each
    #[arg(long, value_name = "TIME", value_parser = probe_time, default_value = "5s")]
    pub(crate) timeout: Duration,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// How to log in: auto, PLAIN, LOGIN, USERPASS or BASIC
    #[arg(long, value_name = "MECHANISM", default_value = "auto")]
    pub(crate) auth: String,
    /// Send the password without TLS to machines other than this one
    #[arg(long)]
    pub(crate) allow_plaintext_auth: bool,
    /// Send a PROXY protocol header (v2) first
    #[arg(long)]
    pub(crate) proxy: bool,
    /// Do not verify the certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Verify the certificate with the authorities in this file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Show this certificate to the server, with the key in --client-key
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// The key of --client-cert
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// The name that the certificate must have, where it is not HOST
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// The status codes that are good, for example 200-299,401
    #[arg(long, value_name = "CODES")]
    pub(crate) expect_status: Option<String>,
    /// The name that an http request is for, where it is not HOST
    #[arg(long, value_name = "NAME")]
    pub(crate) http_host: Option<String>,
    /// The name that EHLO and LHLO say
    #[arg(long, value_name = "NAME")]
    pub(crate) helo_name: Option<String>,
}

/// Find all mistakes of configuration files
///
/// Prints every mistake with file, line and key, and then what is valid but probably not meant. Reads
/// the files of certificates that a configuration names, too. A host reports the same when it
/// loads the configuration; `nginx -t` does not, since it runs no init_by_lua.
#[derive(Args)]
pub(crate) struct ValidateArgs {
    /// YAML files, as configure() takes them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object per file
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the running engine is found
#[derive(Args)]
pub(crate) struct EngineArgs {
    /// The configuration of the hosts, which names a state file. Default: the environment variable
    /// NAUTHILUS_BACKEND_CONFIG
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The state file of the hosts, in place of the one that the configuration names
    #[arg(long, value_name = "FILE")]
    pub(crate) state_file: Option<PathBuf>,
    /// How long to wait for the engine's answer, and before that until it has answered other commands
    #[arg(long, value_name = "TIME", value_parser = pause_time, default_value = "2s")]
    pub(crate) wait: Duration,
}

/// Show a live table of all targets
///
/// FILE is a state file, or a configuration that names one; URL is where a host serves
/// status_json(). In a pipe it prints a line per target, and then a line per change. Of a state file
/// that is older than state_max_age (without a configuration: 5m) no verdict is known.
///
/// A configuration tells which targets belong to a node. Without it, what operators have set for a
/// node has a line of its own.
///
/// Keys: q quits, arrows and page keys scroll, p shows problems alone, s sorts by state or name.
#[derive(Args)]
pub(crate) struct WatchArgs {
    #[arg(value_name = "FILE|URL")]
    pub(crate) source: String,
    /// How often to read the state
    #[arg(long, value_name = "TIME", value_parser = pause_time, default_value = "1s")]
    pub(crate) interval: Duration,
    /// Print the table once; the status is 1 where a target is dead, or the state file is too old
    #[arg(long)]
    pub(crate) once: bool,
}

/// Explain which server a user belongs on
///
/// Never writes. Says what its view is: Redis for the user's binding where a cluster is configured,
/// a state file for the servers, or all of them presumed alive.
#[derive(Args)]
pub(crate) struct RouteArgs {
    /// The user, as users log in
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Only targets of this protocol
    #[arg(long)]
    pub(crate) protocol: Option<String>,
    /// Only nodes of this pool; several in order of preference
    #[arg(long)]
    pub(crate) pool: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the nodes, as a running engine sees them
#[derive(Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Print one JSON object per node
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the last events of a running engine
#[derive(Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Only events after this number
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = |text: &str| number::<u64>(text, 0, u64::MAX))]
    pub(crate) since: u64,
    /// Print one JSON object per event
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print the metrics of a running engine, in the text form of OpenMetrics
#[derive(Args)]
pub(crate) struct MetricsArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// What is set, and for how long
#[derive(Args)]
pub(crate) struct SetArgs {
    /// A target's key, such as imap://192.0.2.11:143, or node:NAME
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// How long it lasts; without it until it is set again
    #[arg(long = "for", value_name = "TIME", value_parser = setting_time)]
    pub(crate) lasting: Option<Duration>,
    #[command(flatten)]
    pub(crate) author: AuthorArgs,
}

/// Why something is done, and who does it
#[derive(Args)]
pub(crate) struct AuthorArgs {
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
    pub(crate) reason: String,
    /// Who; default: the user who runs the command
    #[arg(long, value_name = "TEXT", value_parser = note)]
    by: Option<String>,
}

impl AuthorArgs {
    pub(crate) fn by(&self) -> String {
        self.by.clone().unwrap_or_else(user_name)
    }
}

/// Who runs the command; under sudo, the user who ran sudo. Where the environment does not tell, as under
/// cron or systemd, the name or the number of the user id.
fn user_name() -> String {
    let names = ["SUDO_USER", "LOGNAME", "USER"].into_iter();
    let mut given = names.filter_map(|name| std::env::var(name).ok());
    given
        .find(|name| note(name).is_ok_and(|name| !name.is_empty()))
        .unwrap_or_else(|| {
            let name = user::name().filter(|name| note(name).is_ok());
            name.unwrap_or_else(|| format!("uid {}", user::id()))
        })
}

/// Bind a user to a node, in the store of a cluster
///
/// Logins then go there. The engine that keeps the state file does it; where none answers, or no
/// state file is configured, the command does it in Redis itself.
#[derive(Args)]
pub(crate) struct MoveArgs {
    /// The user, as users log in
    pub(crate) user: String,
    /// The name of a node of the configuration
    pub(crate) node: String,
    /// Without end, and never moved by itself
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) author: AuthorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Unbind a user, in the store of a cluster
///
/// The next login binds the user again, where hashing puts the user.
#[derive(Args)]
pub(crate) struct UserArgs {
    /// The user, as users log in
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) author: AuthorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Keep a user from every server for a time, in the store of a cluster
#[derive(Args)]
pub(crate) struct HoldArgs {
    /// The user, as users log in
    pub(crate) user: String,
    /// For how long, such as 5m; 0 ends it
    #[arg(value_parser = hold_time)]
    pub(crate) time: Duration,
    #[command(flatten)]
    pub(crate) author: AuthorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Release the users of a node, in the store of a cluster
///
/// The next login of each binds the user again. Without a node: the users who are bound elsewhere
/// than hashing puts them. The engine goes on with it after it has answered; where the command
/// itself does it, it ends when all are released.
#[derive(Args)]
pub(crate) struct FlushArgs {
    /// The name of a node of the configuration
    pub(crate) node: Option<String>,
    /// How many users a second at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = |text: &str| number::<u64>(text, 1, 1_000_000))]
    pub(crate) rate: u64,
    #[command(flatten)]
    pub(crate) author: AuthorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Renew the bindings of users who have sessions on a node, in the store of a cluster
///
/// Reads users from standard input: what `doveadm who` prints, or a name a line. Binds and moves
/// nobody: users who are bound elsewhere, or not at all, are left as they are. A line that cannot be the
/// name of a user is left out; the status is then 1.
///
/// For example every five minutes on mail1: doveadm who | nauthilus-backend touch --node mail1
#[derive(Args)]
pub(crate) struct TouchArgs {
    /// The name of a node of the configuration
    #[arg(long)]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Print a completion script for a shell
///
/// For bash: nauthilus-backend completion bash >/etc/bash_completion.d/nauthilus-backend
#[derive(Args)]
pub(crate) struct CompletionArgs {
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    Powershell,
}

/// Write the man pages and completions into a folder
#[derive(Args)]
pub(crate) struct ManualArgs {
    pub(crate) folder: PathBuf,
}

/// A duration as configurations write it.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a time expected, such as 500ms, 10s, 1m30s or 14d".to_owned())
}

/// The time of one stage of a check.
fn probe_time(text: &str) -> Result<Duration, String> {
    at_most(PROBE_MAX, duration(text)?)
}

/// A time for which the command waits.
fn pause_time(text: &str) -> Result<Duration, String> {
    at_most(PAUSE_MAX, duration(text)?)
}

fn at_most((limit, name): (Duration, &str), time: Duration) -> Result<Duration, String> {
    let reason = || format!("a time of at most {name} expected");
    (time <= limit).then_some(time).ok_or_else(reason)
}

/// The longest `deep_timeout` of a configuration.
const PROBE_MAX: (Duration, &str) = (Duration::from_secs(300), "5m");
/// The longest interval of a configuration. Without a limit the end of a wait could be beyond what a clock
/// shows.
const PAUSE_MAX: (Duration, &str) = (Duration::from_secs(86_400), "1d");

fn number<N: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<N, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (least..=most).contains(number));
    let number = number.and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| match most {
        u64::MAX => format!("a whole number from {least} on expected"),
        most => format!("a whole number {least}..{most} expected"),
    })
}

/// The time of a hold; zero ends one.
fn hold_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)
        .ok_or_else(|| "a time expected, such as 500ms, 10s, 1m30s or 14d, or 0".to_owned())?;
    below(HOLD_BELOW, time)
}

/// How long the state of a target or a node lasts.
fn setting_time(text: &str) -> Result<Duration, String> {
    below(SETTING_BELOW, duration(text)?)
}

fn below(limit: Duration, time: Duration) -> Result<Duration, String> {
    let reason = || format!("a time below {} d expected", limit.as_secs() / 86_400);
    (time < limit).then_some(time).ok_or_else(reason)
}

/// The limits of these times are those of the Lua functions `hold_user` and `set_target_state`.
const HOLD_BELOW: Duration = Duration::from_secs(1_000_000_000);
const SETTING_BELOW: Duration = Duration::from_secs(10_000_000_000);

/// A text that events and the store keep.
fn note(text: &str) -> Result<String, String> {
    let is_good = text.len() <= NOTE_MAX && !text.contains(char::is_control);
    is_good.then(|| text.to_owned()).ok_or_else(|| {
        format!("a text of at most {NOTE_MAX} bytes without control characters expected")
    })
}

/// The longest of these texts, in bytes: what functions of Lua and C take.
const NOTE_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use nauthilus_backend::engine::state_file::ANSWERED_WITHIN;

    use super::*;

    #[test]
    fn the_words_are_defined_without_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_engine_has_the_promised_time_to_answer() {
        let cli = Cli::parse_from(["nauthilus-backend", "nodes"]);
        let CommandWord::Nodes(args) = cli.word else {
            panic!("nodes expected");
        };
        assert_eq!(args.engine.wait, ANSWERED_WITHIN);
    }

    #[test]
    fn times_have_the_limits_of_the_functions_of_lua() {
        assert_eq!(hold_time("0"), Ok(Duration::ZERO));
        assert!(hold_time("999999999s").is_ok());
        assert!(hold_time("1000000000s").is_err() && hold_time("1000000d").is_err());
        assert!(setting_time("9999999999s").is_ok());
        assert!(setting_time("10000000000s").is_err() && setting_time("0").is_err());
    }

    #[test]
    fn waits_have_an_end() {
        assert_eq!(pause_time("1d"), Ok(PAUSE_MAX.0));
        assert_eq!(probe_time("5m"), Ok(PROBE_MAX.0));
        for text in ["86401s", "18446744073709551615s", "0", "soon"] {
            assert!(
                pause_time(text).is_err() && probe_time(text).is_err(),
                "{text}"
            );
        }
        assert!(probe_time("301s").is_err_and(|why| why.contains("at most 5m")));
    }

    #[test]
    fn texts_that_events_keep_are_short_and_on_one_line() {
        assert_eq!(note("new disk").as_deref(), Ok("new disk"));
        assert!(note(&"r".repeat(NOTE_MAX + 1)).is_err());
        assert!(note("two\nlines").is_err());
    }
}
