//! The C library's resolver: a look-up that returns its error codes, and two functions that keep
//! look-ups working after the host has changed its root directory (`chroot`).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

/// Why `getaddrinfo` gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameFailure {
    /// `EAI_*`, not the text of `gai_strerror`, which depends on the host's locale.
    pub code: c_int,
    /// The thread's `errno` after the call; 0 if the call did not set it. It says why where
    /// `EAI_NONAME` means that the hosts file could not be opened.
    pub errno: c_int,
}

/// The addresses of `name` in the order of RFC 6724, without duplicates. Blocks until the resolver
/// answers; there is no time limit but the resolver's own.
///
/// # Errors
/// The resolver's code; `EAI_NONAME` for a name that contains a NUL.
pub fn addresses_of(name: &str) -> Result<Vec<IpAddr>, NameFailure> {
    let no_name = NameFailure {
        code: libc::EAI_NONAME,
        errno: 0,
    };
    let name = CString::new(name).map_err(|_| no_name)?;
    // SAFETY: an `addrinfo` holds only integers and pointers, for which all-zero is valid; as hints
    // it means no flags and any family.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    // One entry for each address rather than one for each type of socket.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut found = ptr::null_mut();
    // SAFETY: the address of this thread's `errno` is valid while the thread lives.
    unsafe { *libc::__errno_location() = 0 };
    // SAFETY: `name` and `hints` are initialised and live during the call; `found` has room for
    // the pointer that the call writes.
    let code =
        unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut found) };
    if code != 0 {
        // SAFETY: the address of this thread's `errno` is valid while the thread lives.
        let errno = unsafe { *libc::__errno_location() };
        return Err(NameFailure { code, errno });
    }
    let mut addresses = Vec::new();
    let mut next = found;
    // SAFETY: `getaddrinfo` returned a list that ends with null, and whose entries are valid until
    // the list is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: `getaddrinfo` sets `ai_addr` to a socket address of the family `ai_family`, which
        // is valid until the list is freed.
        if let Some(address) = unsafe { address_of(entry) }
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
        next = entry.ai_next;
    }
    // SAFETY: `found` is the list that `getaddrinfo` returned; it is freed only here, and nothing
    // refers to it any more.
    unsafe { libc::freeaddrinfo(found) };
    Ok(addresses)
}

/// # Safety
/// `entry.ai_addr` is null or points to a socket address of the family `entry.ai_family`.
unsafe fn address_of(entry: &libc::addrinfo) -> Option<IpAddr> {
    if entry.ai_addr.is_null() {
        return None;
    }
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: with this family `ai_addr` points to a `sockaddr_in`, perhaps unaligned.
            let v4: libc::sockaddr_in = unsafe { ptr::read_unaligned(entry.ai_addr.cast()) };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: with this family `ai_addr` points to a `sockaddr_in6`, perhaps unaligned.
            let v6: libc::sockaddr_in6 = unsafe { ptr::read_unaligned(entry.ai_addr.cast()) };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Loads a name service module (`libnss_*.so.2`), so that the C library finds it in memory when the
/// file is out of reach after a change of the root directory. It stays loaded, as after a look-up.
/// Does nothing if there is no such module.
pub fn load_module(service: &str) {
    let is_name = service
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !is_name {
        return;
    }
    if let Ok(file) = CString::new(format!("libnss_{service}.so.2")) {
        // SAFETY: `file` is a C string. The module is one that the system is configured to use, and
        // that a look-up by the host would load as well.
        unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
    }
}

/// The settings of `resolv.conf` that a look-up needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// The name servers. The C library uses at most three.
    pub servers: Vec<SocketAddr>,
    /// The search domains. At most six are used.
    pub search: Vec<String>,
    pub ndots: Option<u8>,
    pub timeout_s: Option<u8>,
    pub attempts: Option<u8>,
}

/// A name server as `resolv.conf` names it: an address, that of a link with its interface (`fe80::1%eth0`). None for
/// anything else. As for the C library, an interface that does not exist is none.
pub fn server(text: &str) -> Option<SocketAddr> {
    let (address, interface) = text
        .split_once('%')
        .map_or((text, None), |(address, interface)| {
            (address, Some(interface))
        });
    match (address.parse().ok()?, interface) {
        (IpAddr::V4(ip), None) => Some((ip, DNS_PORT).into()),
        (IpAddr::V4(_), Some(_)) => None,
        (IpAddr::V6(ip), interface) => {
            let scope = interface.map_or(0, interface_number);
            Some(SocketAddrV6::new(ip, DNS_PORT, 0, scope).into())
        }
    }
}

/// The number of a network interface, given by its name or as a number; 0 if there is none.
fn interface_number(text: &str) -> u32 {
    let Ok(name) = CString::new(text) else {
        return 0;
    };
    // SAFETY: `name` is a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => text.parse().unwrap_or(0),
        number => number,
    }
}

const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;
const DOMAIN_BYTES: usize = 256;
const DNS_PORT: u16 = 53;
/// `RES_NORELOAD` of resolv.h (glibc 2.26): glibc does not replace these settings when
/// `resolv.conf` changes.
const NO_RELOAD: u64 = 0x0200_0000;

/// The beginning of glibc's `struct __res_state` (bits/types/res_state.h), up to the last field
/// that is set here. The layout is part of glibc's ABI.
#[repr(C)]
struct ResolverState {
    retrans: c_int,
    retry: c_int,
    options: libc::c_ulong,
    nscount: c_int,
    nsaddr_list: [libc::sockaddr_in; SERVERS_MAX],
    id: u16,
    dnsrch: [*mut c_char; DOMAINS_MAX + 1],
    defdname: [u8; DOMAIN_BYTES],
    pfcode: libc::c_ulong,
    /// Bit fields. `ndots` is in the lowest four bits, or the highest on big-endian machines.
    bits: u32,
    sort_list: [[u32; 2]; 10],
    unused: [*mut c_void; 2],
    res_h_errno: c_int,
    vcsock: c_int,
    flags: u32,
    extension: Extension,
}

#[repr(C)]
struct Extension {
    nscount: u16,
    nsmap: [u16; SERVERS_MAX],
    nssocks: [c_int; SERVERS_MAX],
    nscount6: u16,
    nsinit: u16,
    nsaddrs: [*mut libc::sockaddr_in6; SERVERS_MAX],
}

/// Makes the look-ups of the calling thread use these servers instead of the present `resolv.conf`.
/// Only for threads of ours: on a thread of the host's it would change the host's own look-ups.
///
/// False if nothing was changed: the C library is not glibc, or `servers` names no server.
pub fn use_servers(servers: &Servers) -> bool {
    if !cfg!(all(target_env = "gnu", target_endian = "little")) || servers.servers.is_empty() {
        return false;
    }
    let (Some(init), Some(state)) = (symbol(c"__res_init"), symbol(c"__res_state")) else {
        return false;
    };
    // SAFETY: glibc declares this symbol as `int __res_init(void)`.
    let init: extern "C" fn() -> c_int = unsafe { std::mem::transmute(init) };
    // SAFETY: glibc declares this symbol as `struct __res_state *__res_state(void)`, and
    // `ResolverState` has the layout of that struct's beginning.
    let state: extern "C" fn() -> *mut ResolverState = unsafe { std::mem::transmute(state) };
    if init() != 0 {
        return false;
    }
    // SAFETY: null or the calling thread's own state, which `__res_init` has just initialised. No
    // other thread uses it, and it lives until the thread ends.
    match unsafe { state().as_mut() } {
        Some(state) => fill(state, servers),
        None => return false,
    }
    true
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

fn fill(state: &mut ResolverState, servers: &Servers) {
    let mut count = 0;
    let places = state
        .nsaddr_list
        .iter_mut()
        .zip(&mut state.extension.nsaddrs);
    for ((v4_place, v6_place), server) in places.zip(&servers.servers) {
        if !v6_place.is_null() {
            // SAFETY: glibc allocated the address with `malloc`, and the pointer to it is set to
            // null, so that glibc does not free it again.
            unsafe { libc::free(v6_place.cast()) };
            *v6_place = ptr::null_mut();
        }
        // Family 0 makes glibc use the entry of `nsaddrs`.
        // SAFETY: a `sockaddr_in` holds only integers, for which all-zero is a valid value.
        *v4_place = unsafe { std::mem::zeroed() };
        match server {
            SocketAddr::V4(server) => {
                v4_place.sin_family = libc::AF_INET as libc::sa_family_t;
                v4_place.sin_port = server.port().to_be();
                v4_place.sin_addr.s_addr = u32::from_ne_bytes(server.ip().octets());
            }
            SocketAddr::V6(server) => {
                let address = socket2::SockAddr::from(*server);
                // Allocated with `malloc`, because glibc frees it with `free`.
                // SAFETY: the size is not 0, and null is handled below.
                let place = unsafe { libc::malloc(size_of::<libc::sockaddr_in6>()) };
                if place.is_null() {
                    break;
                }
                // SAFETY: `place` is new memory for a `sockaddr_in6`, and `address` contains one.
                unsafe {
                    ptr::copy_nonoverlapping(
                        address.as_ptr().cast::<u8>(),
                        place.cast::<u8>(),
                        size_of::<libc::sockaddr_in6>(),
                    );
                }
                *v6_place = place.cast();
            }
        }
        count += 1;
    }
    state.nscount = count;
    state.options |= NO_RELOAD;
    fill_search(state, &servers.search);
    if let Some(ndots) = servers.ndots {
        state.bits = state.bits & !0xf | u32::from(ndots.min(15));
    }
    if let Some(seconds) = servers.timeout_s {
        state.retrans = c_int::from(seconds.clamp(1, 30));
    }
    if let Some(attempts) = servers.attempts {
        state.retry = c_int::from(attempts.clamp(1, 5));
    }
}

/// Copies the domains into `defdname`, one after another, each with a NUL. Those for which no room
/// is left are skipped.
fn fill_search(state: &mut ResolverState, domains: &[String]) {
    state.dnsrch = [ptr::null_mut(); DOMAINS_MAX + 1];
    let mut rest: &mut [u8] = &mut state.defdname;
    rest.fill(0);
    let mut places = state.dnsrch.iter_mut().take(DOMAINS_MAX);
    for domain in domains {
        let length = domain.len();
        if length == 0 || domain.contains('\0') || length + 1 > rest.len() {
            continue;
        }
        // glibc's list ends with a null pointer, so the last of the seven places stays null.
        let Some(place) = places.next() else {
            break;
        };
        let (here, behind) = rest.split_at_mut(length + 1);
        for (to, from) in here.iter_mut().zip(domain.as_bytes()) {
            *to = *from;
        }
        *place = here.as_mut_ptr().cast();
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_and_a_failure_has_its_code() {
        assert_eq!(
            addresses_of("127.0.0.1"),
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        );
        assert_eq!(
            addresses_of("a\0b").map_err(|e| e.code),
            Err(libc::EAI_NONAME)
        );
        let failed = addresses_of("no-such-server.invalid").map_err(|e| e.code);
        assert!(matches!(failed, Err(code) if code != 0));
    }

    #[test]
    fn a_name_server_of_a_link_has_its_interface() {
        let scope = |text| match server(text) {
            Some(SocketAddr::V6(server)) => Some(server.scope_id()),
            _ => None,
        };
        assert!(scope("fe80::1%lo").is_some_and(|number| number > 0));
        assert_eq!(scope("fe80::1%7"), Some(7));
        assert_eq!(scope("fe80::1%nonesuch"), Some(0));
        assert_eq!(scope("fe80::1"), Some(0));
        assert_eq!(server("192.0.2.1"), Some(([192, 0, 2, 1], 53).into()));
        assert_eq!(server("192.0.2.1%lo"), None);
        assert_eq!(server("nonsense"), None);
    }

    #[test]
    fn a_threads_look_ups_ask_the_servers_that_it_was_given() {
        if !cfg!(target_env = "gnu") {
            return;
        }
        let servers = Servers {
            servers: ["127.0.0.9", "fe80::1%lo"]
                .into_iter()
                .filter_map(server)
                .collect(),
            search: vec!["corp.test".to_owned(), "x".repeat(300), "b.test".to_owned()],
            ndots: Some(3),
            timeout_s: Some(2),
            attempts: Some(1),
        };
        // In a thread of its own, so that the other tests keep their resolver's settings.
        std::thread::spawn(move || {
            assert!(use_servers(&servers));
            // SAFETY: glibc declares this symbol as `struct __res_state *__res_state(void)`, and
            // `ResolverState` has the layout of that struct's beginning.
            let state: extern "C" fn() -> *mut ResolverState =
                unsafe { std::mem::transmute(symbol(c"__res_state").unwrap()) };
            // SAFETY: this thread's own state, which `use_servers` has initialised.
            let state = unsafe { &*state() };
            assert_eq!(state.nscount, 2);
            assert_eq!(
                state.nsaddr_list[0].sin_addr.s_addr.to_ne_bytes(),
                [127, 0, 0, 9]
            );
            assert_eq!(state.nsaddr_list[1].sin_family, 0);
            // SAFETY: `use_servers` has set the pointer to an address that it allocated.
            let v6 = unsafe { &*state.extension.nsaddrs[1] };
            assert_eq!(v6.sin6_addr.s6_addr[15], 1);
            assert_ne!(v6.sin6_scope_id, 0);
            assert_eq!(state.bits & 0xf, 3);
            assert_eq!((state.retrans, state.retry), (2, 1));
            let domain = |at: usize| {
                // SAFETY: `use_servers` has set the pointer to a C string in `defdname`.
                unsafe { CStr::from_ptr(state.dnsrch[at]) }
                    .to_str()
                    .unwrap()
            };
            assert_eq!(domain(0), "corp.test");
            assert_eq!(domain(1), "b.test");
            assert_eq!(state.dnsrch[2], ptr::null_mut());
        })
        .join()
        .unwrap();
    }
}
