//! The server that a script has selected.

use smallvec::SmallVec;

/// An address or a host name. Every address fits without memory of its own.
pub type HostText = SmallVec<[u8; 40]>;

/// The server selected for the request.
#[derive(Debug, PartialEq)]
pub struct Selection {
    /// An address literal without brackets, or a host name.
    pub ip: HostText,
    /// 1..=65535.
    pub port: u16,
}

impl Clone for Selection {
    /// Not derived: `SmallVec` copies byte by byte, which shows in the benchmark's row "access phase in nginx".
    fn clone(&self) -> Self {
        Self {
            ip: HostText::from_slice(&self.ip),
            port: self.port,
        }
    }
}
