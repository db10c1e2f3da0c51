//! One look-up of one name by the system's resolver, and how its failures are classified.

use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::origin;
use crate::engine::probe::error::{ProbeError, Stage, is_want_of_means};
use crate::engine::target::HostName;
use crate::sys::gate;
use crate::sys::names;
use crate::sys::own_table::with_own_descriptors;

pub(in crate::engine::probe) type LookupAnswer = Result<Arc<[IpAddr]>, LookupFailure>;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::probe) enum LookupFailure {
    /// The resolver's answer is final: the name does not exist, or has no address.
    NoAddress(String),
    /// No name server could answer: the name may have an address.
    ForNow(String),
    /// This process could not ask, for lack of resources. Says nothing about the name.
    OwnLack(String),
}

impl From<LookupFailure> for ProbeError {
    fn from(failure: LookupFailure) -> Self {
        match failure {
            LookupFailure::NoAddress(reason) | LookupFailure::ForNow(reason) => {
                Self::new(Stage::Resolve, reason)
            }
            LookupFailure::OwnLack(reason) => Self::new(Stage::Internal, reason),
        }
    }
}

/// Asks the system's resolver, on a thread of the engine. Blocks.
pub(super) fn ask_system(name: &HostName) -> LookupAnswer {
    // The C library keeps a socket open until the name server answers, and would not notice that the host has closed
    // its number and opened something else with it.
    with_own_descriptors(|| ask(name, names::use_servers))
}

/// Asks the system's resolver on the host's thread, without changing that thread's name servers
/// (`names::use_servers`), which the host uses as well. Blocks.
pub(super) fn ask_on_hosts_thread(name: &HostName) -> LookupAnswer {
    ask(name, |_| false)
}

fn ask(name: &HostName, use_servers: fn(&names::Servers) -> bool) -> LookupAnswer {
    let origin = origin::known();
    let moved = origin.as_ref().filter(|origin| origin.is_out_of_reach());
    let in_file = match moved {
        Some(origin) => origin.in_hosts_file(name),
        // The C library would look for the name with its trailing dot in the hosts file, where
        // names have none.
        None if name.is_absolute() => origin::in_hosts_file(name),
        None => Vec::new(),
    };
    if !in_file.is_empty() {
        return Ok(in_file.into());
    }
    if let Some(lack) = lack_of_descriptors() {
        return Err(lack);
    }
    let is_told = moved.is_some_and(|origin| use_servers(&origin.servers));
    let found = gate::look_up(|| names::addresses_of(&name.query()));
    match found {
        Ok(addresses) if addresses.is_empty() => Err(LookupFailure::NoAddress(
            "the name has no address".to_owned(),
        )),
        Ok(addresses) => Ok(addresses.into()),
        Err(failure) => {
            let failure = meaning_of(failure, lack_of_descriptors());
            let is_blind = moved.is_some() && !is_told;
            Err(match failure {
                LookupFailure::NoAddress(reason) | LookupFailure::ForNow(reason) if is_blind => {
                    LookupFailure::OwnLack(format!(
                        "names cannot be looked up in this root directory: {reason}"
                    ))
                }
                other => other,
            })
        }
    }
}

fn meaning_of(failure: names::NameFailure, lack: Option<LookupFailure>) -> LookupFailure {
    if let Some(lack) = lack {
        return lack;
    }
    if is_want_of_means(failure.errno) {
        return own_lack(&std::io::Error::from_raw_os_error(failure.errno));
    }
    match failure.code {
        libc::EAI_MEMORY => {
            LookupFailure::OwnLack("cannot look up names: out of memory".to_owned())
        }
        libc::EAI_SYSTEM => own_lack(&std::io::Error::from_raw_os_error(failure.errno)),
        // The only codes that are an answer about the name.
        code @ (libc::EAI_NONAME | libc::EAI_NODATA | EAI_ADDRFAMILY) => {
            LookupFailure::NoAddress(text(code))
        }
        // `EAI_FAIL`: a name server refused to answer or failed, which another one may not do.
        code => LookupFailure::ForNow(text(code)),
    }
}

/// `EAI_ADDRFAMILY` of glibc's netdb.h: the name exists, but has no address of the family that was asked
/// for. The `libc` crate does not define it.
const EAI_ADDRFAMILY: i32 = -9;

fn own_lack(error: &std::io::Error) -> LookupFailure {
    LookupFailure::OwnLack(format!("cannot look up names: {error}"))
}

/// Whether the process lacks the two descriptors that a look-up needs, a file and a socket. The C
/// library does not tell: if it cannot open the hosts file or a socket, it reports that the name
/// does not exist or that no name server answers.
fn lack_of_descriptors() -> Option<LookupFailure> {
    let two = UnixDatagram::unbound().and_then(|first| Ok((first, UnixDatagram::unbound()?)));
    two.err()
        .filter(|error| error.raw_os_error().is_some_and(is_want_of_means))
        .map(|error| own_lack(&error))
}

/// The texts of `gai_strerror` in the C locale. The function itself would translate them.
fn text(code: i32) -> String {
    match code {
        libc::EAI_NONAME => "name or service not known",
        libc::EAI_AGAIN => "temporary failure in name resolution",
        libc::EAI_NODATA | EAI_ADDRFAMILY => "no address associated with hostname",
        libc::EAI_FAIL => "non-recoverable failure in name resolution",
        libc::EAI_FAMILY => "address family not supported",
        code => return format!("the look-up failed with code {code}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_means_says_nothing_of_a_name() {
        let meaning = |code, errno| meaning_of(names::NameFailure { code, errno }, None);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            for code in [libc::EAI_NONAME, libc::EAI_AGAIN, libc::EAI_SYSTEM] {
                assert!(
                    matches!(meaning(code, errno), LookupFailure::OwnLack(_)),
                    "{code} {errno}"
                );
            }
        }
        assert!(matches!(
            meaning(libc::EAI_MEMORY, 0),
            LookupFailure::OwnLack(_)
        ));
        assert!(matches!(
            meaning(libc::EAI_SYSTEM, libc::EIO),
            LookupFailure::OwnLack(_)
        ));
        let unable = Some(own_lack(&std::io::Error::from_raw_os_error(libc::EMFILE)));
        let seen = names::NameFailure {
            code: libc::EAI_NONAME,
            errno: 0,
        };
        assert!(matches!(
            meaning_of(seen, unable),
            LookupFailure::OwnLack(_)
        ));
        assert!(matches!(
            meaning(libc::EAI_AGAIN, libc::ECONNREFUSED),
            LookupFailure::ForNow(_)
        ));
        for code in [libc::EAI_AGAIN, libc::EAI_FAIL, libc::EAI_FAMILY, -1000] {
            assert!(
                matches!(meaning(code, libc::ENOENT), LookupFailure::ForNow(_)),
                "{code}"
            );
        }
        for code in [libc::EAI_NONAME, libc::EAI_NODATA, EAI_ADDRFAMILY] {
            assert!(
                matches!(meaning(code, libc::ENOENT), LookupFailure::NoAddress(_)),
                "{code}"
            );
        }
    }
}
