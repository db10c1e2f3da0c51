//! Advice after a failed check: one sentence that says what to do.

use nauthilus_backend::engine::probe::error::{ProbeError, Stage};
use nauthilus_backend::engine::target::{Protocol, Target, TlsMode};

/// One sentence that says what an operator can do about a failure.
pub(super) fn advice(error: &ProbeError, target: &Target) -> String {
    let says = |text: &str| error.reason.contains(text);
    let host = target.host.to_string();
    let port = target.port;
    match error.stage {
        Stage::Resolve if error.is_timeout => {
            "this machine's resolver does not answer: see /etc/resolv.conf".to_owned()
        }
        Stage::Resolve => format!("see whether the name is right: getent hosts {host}"),
        Stage::Connect if error.is_timeout => format!(
            "a firewall may drop the packets, or the machine is down: ping {host}, and see its \
             rules for port {port}"
        ),
        Stage::Connect if says("refused") => format!(
            "nothing listens there: see whether the service runs, and on port {port} of this \
             address (ss -ltn)"
        ),
        Stage::Connect => {
            "see this machine's routes and addresses: ip route get ADDRESS".to_owned()
        }
        Stage::Proxy => "see whether the listener expects the PROXY header".to_owned(),
        Stage::Tls => of_tls(error, target),
        Stage::Greeting if error.is_timeout && !target.haproxy_v2 => {
            "the service accepts but does not speak: it may be overloaded, expect TLS from the \
             first byte, or expect the PROXY header (--proxy)"
                .to_owned()
        }
        Stage::Greeting => format!(
            "something else than {} may listen on port {port}, or TLS starts with the first byte \
             there ({}s://)",
            target.protocol, target.protocol
        ),
        Stage::Capability => "see the log of the service".to_owned(),
        Stage::StartTls => format!(
            "switch STARTTLS on in the service, or use {}s:// where it has a port for that",
            target.protocol
        ),
        Stage::Auth => of_login(error, target),
        Stage::Examine => "see whether the mailbox exists and the user may read it".to_owned(),
        Stage::Stat | Stage::ListScripts => {
            "the login works but the user's storage does not: see the log of the service".to_owned()
        }
        Stage::Http if says("status") => {
            "see the log of the service; --expect-status says which codes are good, --http-host \
             the name that is asked for"
                .to_owned()
        }
        Stage::Http => "see whether an HTTP service listens there".to_owned(),
        Stage::Internal => {
            "this machine could not make the check: it says nothing about the server".to_owned()
        }
    }
}

fn of_tls(error: &ProbeError, target: &Target) -> String {
    let says = |text: &str| error.reason.contains(text);
    let protocol = target.protocol;
    if says("expired") {
        "renew the certificate and reload the service".to_owned()
    } else if says("not valid for") {
        "use the name that the certificate has, or say which one it must have: --server-name \
         (tls_server_name in a configuration)"
            .to_owned()
    } else if says("not trusted") {
        "give the authority that signed it: --ca-file (tls_ca_file in a configuration); where it \
         is a public one, the server does not send its intermediate certificates"
            .to_owned()
    } else if says("clear text") && protocol == Protocol::Http {
        "use http://, or the port of https".to_owned()
    } else if says("clear text") {
        format!("use {protocol}+starttls:// or {protocol}+plain://, or the port of {protocol}s")
    } else if says("TLS version") {
        "the service has to offer TLS 1.2 or 1.3".to_owned()
    } else if says("client certificate") {
        "the service demands a client certificate".to_owned()
    } else if error.is_timeout && target.tls_mode == TlsMode::Implicit {
        format!("the service may expect clear text there: {protocol}+starttls://")
    } else {
        "see the log of the service".to_owned()
    }
}

fn of_login(error: &ProbeError, target: &Target) -> String {
    if !error.is_conclusive() {
        "the user has logged in a moment ago or has another session: check again later, or with a \
         user of its own"
            .to_owned()
    } else if error.login_refused {
        "see whether user and password are right: doveadm auth test USER, where it is Dovecot"
            .to_owned()
    } else if error.reason.contains("TLS") || error.reason.contains("clear") {
        let protocol = target.protocol;
        format!(
            "use {protocol}s:// or {protocol}+starttls://, or --allow-plaintext-auth in a network \
             that you trust"
        )
    } else {
        "see the log of the service; --auth chooses another mechanism".to_owned()
    }
}
