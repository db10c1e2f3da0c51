//! The group of a connection's key exchange.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::ptr;

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::SslRef;

/// `SSL_CTRL_GET_NEGOTIATED_GROUP` of OpenSSL 3.0 (`openssl/ssl.h`). Earlier versions do not know
/// the command and return 0.
const GET_NEGOTIATED_GROUP: c_int = 134;

/// `SSL_CTRL_SET_GROUPS_LIST` (`openssl/ssl.h`), all versions of OpenSSL.
const SET_GROUPS_LIST: c_int = 92;

/// `TLSEXT_nid_unknown`: this bit is set in the answer if OpenSSL has no NID for the group. The
/// other bits are then the group's number in TLS.
const NO_NID: c_long = 0x100_0000;

/// Groups without a NID (IANA's registry of TLS supported groups).
const GROUPS: [(c_long, &str); 3] = [
    (0x11eb, "SecP256r1MLKEM768"),
    (0x11ec, "X25519MLKEM768"),
    (0x11ed, "SecP384r1MLKEM1024"),
];

unsafe extern "C" {
    // `openssl/ssl.h`, all versions of OpenSSL.
    fn SSL_ctrl(ssl: *mut c_void, command: c_int, number: c_long, data: *mut c_void) -> c_long;
}

/// OpenSSL's or IANA's name of the group; its number if it is in neither list. None if the handshake
/// used no group (TLS 1.2 with RSA key exchange), or OpenSSL is older than 3.0.
pub fn group(ssl: &SslRef) -> Option<String> {
    // SAFETY: the connection is borrowed, so it lives, and this command reads a number from it and
    // uses no data.
    let answer = unsafe {
        SSL_ctrl(
            ssl.as_ptr().cast(),
            GET_NEGOTIATED_GROUP,
            0,
            ptr::null_mut(),
        )
    };
    if answer <= 0 {
        return None;
    }
    if answer & NO_NID == 0 {
        let nid = Nid::from_raw(c_int::try_from(answer).ok()?);
        return nid.short_name().ok().map(str::to_owned);
    }
    let number = answer & !NO_NID;
    let known = GROUPS.iter().find(|(group, _)| *group == number);
    Some(known.map_or_else(|| format!("{number:#06x}"), |(_, name)| (*name).to_owned()))
}

/// A group whose key share costs little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheapGroup {
    X25519,
    P256,
}

impl CheapGroup {
    /// Its number in IANA's registry of TLS supported groups.
    pub const fn number(self) -> u16 {
        match self {
            Self::X25519 => 0x001d,
            Self::P256 => 0x0017,
        }
    }

    const fn name(self) -> &'static CStr {
        match self {
            Self::X25519 => c"X25519",
            Self::P256 => c"P-256",
        }
    }
}

/// Makes a connection that has not begun its handshake offer this group alone.
///
/// # Errors
/// There is no memory, or OpenSSL does not know the group.
pub fn offer_only(ssl: &mut SslRef, group: CheapGroup) -> Result<(), ErrorStack> {
    // SAFETY: the connection is borrowed, so it lives. The command reads a C string from `data`, of
    // which it keeps nothing, and writes to the connection alone.
    let done = unsafe {
        SSL_ctrl(
            ssl.as_ptr().cast(),
            SET_GROUPS_LIST,
            0,
            group.name().as_ptr().cast_mut().cast(),
        )
    };
    match done {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}
