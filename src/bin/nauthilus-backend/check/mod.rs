//! `check`: makes the engine's probe of a server, and shows each stage with its time.

mod advice;
mod offers;
mod recorder;
mod report;
mod subject;
mod url;

use std::sync::Arc;

use nauthilus_backend::engine::config::{
    CheckDefaults, Config, Timeouts, Value, target_from_value,
};
use nauthilus_backend::engine::probe::{Depth, Prober};
use nauthilus_backend::engine::target::Target;
use zeroize::Zeroizing;

use self::recorder::Recorder;
use self::report::{JsonReport, TextReport};
use self::subject::{ProbeRun, Subject};
use self::url::CheckUrl;
use super::cli::CheckArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::password;

pub(crate) fn run(args: &CheckArgs) -> Result<ExitStatus, CommandFailure> {
    // All URLs are read before the first server is checked: a mistake in the last one then ends the
    // command before anything was done.
    let subjects = args
        .urls
        .iter()
        .map(|text| subject(text, args))
        .collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandFailure::bad(format!("cannot start: {error}")))?;
    let mut is_good = true;
    for subject in &subjects {
        is_good &= runtime.block_on(check(subject, args));
    }
    Ok(ExitStatus::good_if(is_good))
}

/// Checks one server and reports it; whether every probe was good.
async fn check(subject: &Subject, args: &CheckArgs) -> bool {
    let depth = if args.connect_only {
        Depth::Connect
    } else {
        Depth::Deep
    };
    let is_quiet = args.json || args.repeat > 1;
    let text = TextReport::begin(&subject.url, args);
    let recorder = Arc::new(Recorder::new(text.stages(is_quiet)));
    let prober = Prober::observed(recorder.clone());
    // Reads the authorities before the time is measured: that takes longer than a handshake and is
    // not the server's time.
    prober.prepare(&subject.target);
    let mut runs = Vec::new();
    for number in 1..=args.repeat {
        text.progress(number);
        recorder.begin();
        let outcome = prober.run(&subject.target, depth, None).await;
        runs.push(ProbeRun {
            recording: recorder.end(outcome.elapsed),
            result: outcome.result,
            elapsed: outcome.elapsed,
            address: outcome.address,
        });
    }
    if args.json {
        JsonReport::print(subject, &runs);
    } else {
        text.end(subject, &runs);
    }
    runs.iter().all(|run| run.result.is_ok())
}

/// The target that a URL and the options describe, by the rules of a configuration.
fn subject(text: &str, args: &CheckArgs) -> Result<Subject, CommandFailure> {
    let refused = |reason: String| {
        // A text that is not a valid URL is not quoted: it may contain a password.
        let place = CheckUrl::parse(text).map_or_else(|_| "URL".to_owned(), |url| url.shown());
        CommandFailure::usage(format!("{place}: {reason}"))
    };
    let url = CheckUrl::parse(text).map_err(refused)?;
    let mut keys = url.keys(!args.connect_only).map_err(refused)?;
    let mut add = |name: &str, value: Value| keys.push((name.to_owned(), value));
    let text_of = |text: &str| Value::Str(text.to_owned());
    add("deep_check", Value::Bool(!args.connect_only));
    add("auth_mechanism", text_of(&args.auth));
    for (name, is_given) in [
        ("allow_plaintext_auth", args.allow_plaintext_auth),
        ("haproxy_v2", args.proxy),
        ("tls_skip_verify", args.insecure),
    ] {
        add(name, Value::Bool(is_given));
    }
    for (name, given) in [
        ("tls_server_name", &args.server_name),
        ("expected_status", &args.expect_status),
        ("http_host", &args.http_host),
        ("helo_name", &args.helo_name),
    ] {
        if let Some(given) = given {
            add(name, text_of(given));
        }
    }
    for (name, option, path) in [
        ("tls_ca_file", "--ca-file", &args.ca_file),
        ("tls_cert_file", "--client-cert", &args.client_cert),
        ("tls_key_file", "--client-key", &args.client_key),
    ] {
        if let Some(path) = path {
            let text = path.to_str();
            let text =
                text.ok_or_else(|| CommandFailure::usage(format!("{option}: UTF-8 expected")))?;
            add(name, text_of(text));
        }
    }
    if let Some(user) = url.user.as_deref().filter(|_| !args.connect_only) {
        let password: Zeroizing<String> = password::of(user, args.password_file.as_deref())?;
        add("test_username", text_of(user));
        add("test_password", text_of(&password));
    }
    let defaults = CheckDefaults {
        timeouts: Timeouts {
            connect: args.timeout,
            tls: args.timeout,
            deep: Some(args.timeout),
        },
        helo_name: None,
        configured: &|_, _| None,
    };
    let target = target_from_value(&Value::Map(keys), &defaults, &[])
        .map_err(|error| CommandFailure::usage(format!("{}: {error}", url.shown())))?;
    check_files(&target)
        .map_err(|reason| CommandFailure::usage(format!("{}: {reason}", url.shown())))?;
    Ok(Subject { url, target })
}

/// Files that the target names must be readable before anything is checked.
fn check_files(target: &Target) -> Result<(), String> {
    Config::check_files_of(target).map_err(|error| error.to_string())
}
