//! The files that the system's resolver needs, read when the host configures this module.
//!
//! HAProxy and others change their root directory (`chroot`) afterwards. Then `/etc/hosts`,
//! `/etc/resolv.conf` and name service modules (NSS) cannot be read any more, and the resolver
//! would report that no name exists or that no name server answers.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::str::SplitAsciiWhitespace;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::sys::names::{Servers, load_module, server};
use crate::sys::process::root_directory;

static ORIGIN: ArcSwapOption<Origin> = ArcSwapOption::const_empty();

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// The most bytes that are read of a file. Hosts files that block advertisements are long.
const FILE_MAX: u64 = 4 << 20;

/// The resolver's files, under the root directory at the time of reading.
pub(super) struct Origin {
    /// Device and inode of the root directory.
    root: Option<(u64, u64)>,
    hosts: String,
    pub(super) servers: Servers,
}

/// Reads what a look-up needs, and loads the name service modules. To be called when host names are
/// configured. It does not use the network.
///
/// If the root directory has changed since the last call and the files are missing in the new one,
/// what was read before is kept.
pub fn remember() {
    let Some(fresh) = Origin::read() else {
        return;
    };
    let is_bare = fresh.hosts.is_empty() && fresh.servers.servers.is_empty();
    if is_bare && known().is_some_and(|known| known.is_out_of_reach()) {
        return;
    }
    for service in services(&read(NSSWITCH).unwrap_or_default()) {
        load_module(&service);
    }
    ORIGIN.store(Some(Arc::new(fresh)));
}

/// What [`remember`] has read last.
pub(super) fn known() -> Option<Arc<Origin>> {
    ORIGIN.load_full()
}

/// The addresses of `name` in the hosts file as it is now.
pub(super) fn in_hosts_file(name: &str) -> Vec<IpAddr> {
    find(&read(HOSTS).unwrap_or_default(), name)
}

impl Origin {
    /// None if a file exists but cannot be read.
    fn read() -> Option<Self> {
        Some(Self {
            root: root_directory(),
            hosts: read(HOSTS)?,
            servers: servers(&read(RESOLV_CONF)?),
        })
    }

    /// Whether the root directory has changed since the files were read.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.root.is_some() && root_directory() != self.root
    }

    /// The addresses of `name` in the hosts file that was read.
    pub(super) fn in_hosts_file(&self, name: &str) -> Vec<IpAddr> {
        find(&self.hosts, name)
    }
}

/// The content of a file; empty if it does not exist, None if it cannot be read.
fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(String::new()),
        Err(_) => None,
    }
}

/// hosts(5): an address, then its names; `#` begins a comment.
fn find(hosts: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = words(line, &['#']);
        if let Some(address) = words.next().and_then(|word| word.parse().ok())
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// resolv.conf(5). Unknown lines and options are ignored, as the C library does.
fn servers(text: &str) -> Servers {
    let mut read = Servers {
        servers: Vec::new(),
        search: Vec::new(),
        ndots: None,
        timeout_s: None,
        attempts: None,
    };
    for line in text.lines() {
        let mut words = words(line, &['#', ';']);
        match words.next() {
            Some("nameserver") => read.servers.extend(words.next().and_then(server)),
            // The last of these lines counts.
            Some("search") => read.search = words.map(str::to_owned).collect(),
            Some("domain") => read.search = words.take(1).map(str::to_owned).collect(),
            Some("options") => {
                for word in words {
                    let Some((option, value)) = word.split_once(':') else {
                        continue;
                    };
                    let value = value.parse().ok();
                    match option {
                        "ndots" => read.ndots = value,
                        "timeout" => read.timeout_s = value,
                        "attempts" => read.attempts = value,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if read.servers.is_empty() && !text.is_empty() {
        // The C library's default.
        read.servers.extend(server("127.0.0.1"));
    }
    read
}

/// nsswitch.conf(5): the services that the line `hosts:` names, without their `[actions]`.
fn services(text: &str) -> Vec<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("hosts:"));
    let mut is_action = false;
    words(line.unwrap_or_default(), &['#'])
        .filter(|word| {
            is_action |= word.starts_with('[');
            let is_service = !is_action;
            is_action &= !word.ends_with(']');
            is_service
        })
        .map(str::to_owned)
        .collect()
}

fn words<'t>(line: &'t str, comment: &[char]) -> SplitAsciiWhitespace<'t> {
    let text = line.split(comment).next().unwrap_or_default();
    text.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_as_the_c_library_reads_it() {
        let hosts = "127.0.0.1 localhost # of this machine\n\n# 10.0.0.9 mail.test\n\
            10.0.0.1\tmail.test  Mail\n10.0.0.2 other.test mail\n10.0.0.1 mail\nfe80::1%eth0 x\nx y\n";
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!(find(hosts, "MAIL"), [ip(1), ip(2)]);
        assert_eq!(find(hosts, "mail.test"), [ip(1)]);
        assert_eq!(find(hosts, "of"), [] as [IpAddr; 0]);
        assert_eq!(find(hosts, "10.0.0.1"), [] as [IpAddr; 0]);
    }

    #[test]
    fn what_a_name_server_needs_is_read_and_the_rest_passed_over() {
        let text = "# c\nnameserver 10.0.0.1 ; first\nnameserver nonsense\nnameserver ::1\n\
            domain a.test b.test\nsearch corp.test x.test\nsortlist 1\noptions ndots:2 rotate timeout:1 attempts:x\n";
        let read = servers(text);
        assert_eq!(
            read.servers,
            ["10.0.0.1:53", "[::1]:53"].map(|server| server.parse().unwrap())
        );
        assert_eq!(read.search, ["corp.test", "x.test"]);
        assert_eq!(
            (read.ndots, read.timeout_s, read.attempts),
            (Some(2), Some(1), None)
        );
        assert_eq!(servers("domain a.test b.test").search, ["a.test"]);
        assert_eq!(servers("\n").servers, ["127.0.0.1:53".parse().unwrap()]);
        assert!(servers("").servers.is_empty());
    }

    #[test]
    fn name_services_are_those_of_the_hosts_line() {
        let text = "passwd: files systemd\nhosts: files mdns4_minimal [NOTFOUND=return] dns [!UNAVAIL=return a] x # y\n";
        assert_eq!(services(text), ["files", "mdns4_minimal", "dns", "x"]);
        assert_eq!(services(""), [] as [&str; 0]);
    }
}
