//! Finds the capabilities in the replies of a server.

use nauthilus_backend::engine::probe::error::Stage;
use nauthilus_backend::engine::target::Protocol;

/// The capabilities that the server named last: after STARTTLS it may offer others than before.
pub(super) fn offers(protocol: Protocol, lines: &[(Stage, Vec<u8>)]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_new_list = true;
    for (stage, line) in lines {
        let text = String::from_utf8_lossy(line).into_owned();
        match protocol {
            Protocol::Imap => {
                if let Some(list) = imap_list(&text) {
                    found = list;
                }
            }
            Protocol::Pop3 | Protocol::Smtp | Protocol::Lmtp if *stage != Stage::Capability => {}
            Protocol::Pop3 => match text.as_str() {
                "." => is_new_list = true,
                text if text.starts_with("+OK") || text.starts_with("-ERR") => {}
                text => push(&mut found, &mut is_new_list, text),
            },
            Protocol::Smtp | Protocol::Lmtp => {
                let Some(rest) = text.strip_prefix("250") else {
                    continue;
                };
                let is_last = !rest.starts_with('-');
                // A later reply replaces the capabilities of an earlier one.
                if is_new_list && !found.is_empty() {
                    found.clear();
                }
                found.push(rest.trim_start_matches(['-', ' ']).to_owned());
                is_new_list = is_last;
            }
            Protocol::Sieve => {
                if text.starts_with('"') {
                    push(&mut found, &mut is_new_list, &text);
                } else {
                    is_new_list = true;
                }
            }
            Protocol::Http => {}
        }
    }
    if matches!(protocol, Protocol::Smtp | Protocol::Lmtp) && !found.is_empty() {
        // RFC 5321 §4.1.1.1: the first line of the reply is the server's name and a greeting.
        found.remove(0);
    }
    found
}

fn push(found: &mut Vec<String>, is_new_list: &mut bool, text: &str) {
    if std::mem::take(is_new_list) {
        found.clear();
    }
    found.push(text.to_owned());
}

/// The words after CAPABILITY, in an untagged reply or a response code.
fn imap_list(line: &str) -> Option<Vec<String>> {
    let upper = line.to_ascii_uppercase();
    let (at, end) = if upper.starts_with("* CAPABILITY ") {
        ("* CAPABILITY ".len(), line.len())
    } else {
        let at = upper.find("[CAPABILITY ")? + "[CAPABILITY ".len();
        (at, at + upper.get(at..)?.find(']')?)
    };
    let words = line.get(at..end)?.split_ascii_whitespace();
    Some(words.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Protocol, lines: &[&str]) -> Vec<String> {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| (Stage::Capability, line.as_bytes().to_vec()))
            .collect();
        offers(protocol, &lines)
    }

    #[test]
    fn the_last_list_of_a_server_counts() {
        let imap = [
            "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi",
            "* CAPABILITY IMAP4rev1 IDLE",
        ];
        assert_eq!(of(Protocol::Imap, &imap), ["IMAP4rev1", "IDLE"]);
        let smtp = [
            "250-mx",
            "250-STARTTLS",
            "250 SIZE 1",
            "250-mx",
            "250 8BITMIME",
        ];
        assert_eq!(of(Protocol::Smtp, &smtp), ["8BITMIME"]);
        let pop3 = ["+OK", "STLS", ".", "+OK", "UIDL", "USER", "."];
        assert_eq!(of(Protocol::Pop3, &pop3), ["UIDL", "USER"]);
        let sieve = ["\"STARTTLS\"", "OK", "\"SIEVE\" \"fileinto\"", "OK"];
        assert_eq!(of(Protocol::Sieve, &sieve), ["\"SIEVE\" \"fileinto\""]);
    }
}
