//! Configuration, start and stop, and the list of alive servers.

use std::ffi::{OsStr, OsString, c_char};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::context::port;
use super::handle::{self, reference_counted};
use super::result::item;
use super::status::{Done, Failure, Status, exported, out};
use super::text::{self, View, terminated};
use crate::engine::active::{ActiveConfig, BackendServer};
use crate::engine::config::{Config, ConfigError};
use crate::engine::process::{NotConfigured, Process, Start, current};
use crate::sys::copies;

/// `nauthilus_backend_servers`.
struct ServersHandle {
    generation: u64,
    servers: Vec<ServerTexts>,
}

/// A server and its texts with a NUL at the end of each, as C expects them.
pub(super) struct ServerTexts {
    ip: Box<[u8]>,
    host: Box<[u8]>,
    protocol: Box<[u8]>,
    tls_mode: Box<[u8]>,
    request_uri: Box<[u8]>,
    node: Box<[u8]>,
    pool: Box<[u8]>,
    state: Box<[u8]>,
    server: BackendServer,
}

/// `nauthilus_backend_server`. New fields are added at the end: a caller built for an older version
/// passes a smaller `server_size` and gets the fields that it knows.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Server {
    ip: View,
    host: View,
    protocol: View,
    tls_mode: View,
    request_uri: View,
    port: u32,
    tls: i32,
    tls_skip_verify: i32,
    haproxy_v2: i32,
    deep_check: i32,
    node: View,
    pool: View,
    state: View,
    weight: u32,
}

/// The size of the struct in the first version of the ABI, in bytes: no caller's is smaller.
const FIRST_VERSION: usize = std::mem::offset_of!(Server, deep_check) + size_of::<i32>();

impl ServerTexts {
    pub(super) fn new(server: BackendServer) -> Self {
        let target = &server.target;
        Self {
            ip: terminated(server.ip.as_bytes()),
            host: terminated(target.host.to_string().as_bytes()),
            protocol: terminated(target.protocol.name().as_bytes()),
            tls_mode: terminated(target.tls_mode.name().as_bytes()),
            request_uri: terminated(target.request_uri.as_bytes()),
            node: terminated(target.node().as_bytes()),
            pool: terminated(target.placement.pool.as_bytes()),
            state: terminated(server.state.name().as_bytes()),
            server,
        }
    }

    /// The server as C gets it. Its views point into `self`.
    fn view(&self) -> Server {
        let target = &self.server.target;
        Server {
            ip: View::of(&self.ip),
            host: View::of(&self.host),
            protocol: View::of(&self.protocol),
            tls_mode: View::of(&self.tls_mode),
            request_uri: View::of(&self.request_uri),
            port: target.port.into(),
            tls: target.implicit_tls().into(),
            tls_skip_verify: target.tls_skip_verify.into(),
            haproxy_v2: target.haproxy_v2.into(),
            deep_check: target.deep_check.into(),
            node: View::of(&self.node),
            pool: View::of(&self.pool),
            state: View::of(&self.state),
            weight: self.server.weight.into(),
        }
    }

    /// Writes the server as a caller whose struct has `server_size` bytes knows it.
    ///
    /// # Errors
    ///
    /// `server` is null, or the size is smaller than the first version's.
    ///
    /// # Safety
    ///
    /// `server` is null or has `server_size` writable bytes.
    pub(super) unsafe fn write(&self, server: *mut Server, server_size: usize) -> Done {
        // SAFETY: `server` is null or has `server_size` writable bytes, by this function's contract.
        unsafe { write_sized("server", self.view(), server, server_size, FIRST_VERSION) }
    }
}

/// Writes a struct that later versions add fields to: as much as fits in `size` bytes, and zeros where
/// the caller's struct has fields that this version lacks. `name` is the parameter's name.
///
/// # Errors
///
/// `start` is null, or `size` is smaller than the `first` version's.
///
/// # Safety
///
/// `start` is null or has `size` writable bytes.
pub(super) unsafe fn write_sized<T: Copy>(
    name: &str,
    value: T,
    start: *mut T,
    size: usize,
    first: usize,
) -> Done {
    let start = out(name, start)?.cast::<u8>();
    if size < first {
        return Err(Failure::invalid(format!(
            "{name}_size: at least {first} expected, got {size}"
        )));
    }
    let value = MaybeUninit::new(value);
    let known = size_of::<T>();
    // SAFETY: `start` is not null, so it has `size` writable bytes, by this function's contract.
    unsafe {
        ptr::copy_nonoverlapping(value.as_ptr().cast(), start, known.min(size));
        if size > known {
            start.add(known).write_bytes(0, size - known);
        }
    }
    Ok(())
}

fn refused(refused: NotConfigured) -> Failure {
    match refused {
        NotConfigured::Wrong(reason) => wrong(reason),
        NotConfigured::OtherCopy(reason) => other_copy(reason),
        NotConfigured::System(reason) => system(reason),
    }
}

fn wrong(reason: String) -> Failure {
    Failure::new(Status::Configuration, reason)
}

fn other_copy(reason: String) -> Failure {
    Failure::new(Status::OtherCopy, reason)
}

fn system(reason: String) -> Failure {
    Failure::new(Status::System, reason)
}

/// Makes a configuration that was read the active one.
fn configure(read: Result<Config, ConfigError>) -> Done {
    let read = read.and_then(Config::with_files);
    let config = read.map_err(|e| wrong(e.to_string()))?;
    current().configure(config, false).map_err(refused)?;
    Ok(())
}

/// The value of `${NAME}` in a configuration.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The engine of this process. Where no configuration is active it is configured from the
/// environment first.
pub(super) fn configured() -> Result<Arc<Process>, Failure> {
    let process = current();
    process.configure_from_environment().map_err(refused)?;
    Ok(process)
}

pub(super) fn active(process: &Process, start: Start) -> Result<Arc<ActiveConfig>, Failure> {
    process.active(start).ok_or_else(not_configured)
}

fn not_configured() -> Failure {
    Failure::new(
        Status::NotConfigured,
        "nothing was configured: call a configure function, or set NAUTHILUS_BACKEND_CONFIG",
    )
}

exported!(
    fn nauthilus_backend_configure_file(path: *const c_char, path_size: usize) -> Done {
        let path = Path::new(OsStr::from_bytes(text::bytes("path", path, path_size)?));
        configure(Config::from_file(path, &variable))
    }
);

exported!(
    fn nauthilus_backend_configure_yaml(text: *const c_char, text_size: usize) -> Done {
        let text = text::bytes("text", text, text_size)?;
        configure(Config::from_yaml_bytes(text, &variable))
    }
);

exported!(
    fn nauthilus_backend_start() -> Done {
        let process = configured()?;
        // After `configured`: if that refuses the file, another copy can still get the engine.
        copies::claim().map_err(other_copy)?;
        process.start().map_err(system)
    }
);

exported!(
    fn nauthilus_backend_stop() -> Done {
        current().stop();
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_wait_ready(milliseconds: i64) -> Done {
        let process = configured()?;
        active(&process, Start::Allowed)?;
        let at_most = u64::try_from(milliseconds).ok().map(Duration::from_millis);
        if process.wait_ready(at_most).map_err(system)? {
            return Ok(());
        }
        Err(Failure::new(
            Status::Timeout,
            format!("not every target had a verdict within {milliseconds} ms"),
        ))
    }
);

exported!(
    fn nauthilus_backend_generation(generation: *mut u64) -> Done {
        let generation = out("generation", generation)?;
        generation.write(active(&current(), Start::Forbidden)?.generation());
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_report_failure(ip: *const c_char, ip_size: usize, port: u32) -> Done {
        let ip = text::bytes("ip", ip, ip_size)?;
        let port = self::port(port)?;
        let active = active(&*configured()?, Start::Allowed)?;
        let known = std::str::from_utf8(ip).is_ok_and(|ip| active.report_failure(ip, port));
        if known {
            return Ok(());
        }
        Err(Failure::new(
            Status::NotFound,
            "no configured target is at this address and port",
        ))
    }
);

exported!(
    fn nauthilus_backend_servers_acquire(servers: *mut *mut ServersHandle) -> Done {
        out("servers", servers)?;
        let snapshot = active(&*configured()?, Start::Allowed)?.snapshot();
        let list = ServersHandle {
            generation: snapshot.generation,
            servers: snapshot.servers.into_iter().map(ServerTexts::new).collect(),
        };
        handle::give("servers", servers, list)
    }
);

reference_counted!(
    nauthilus_backend_servers_retain,
    nauthilus_backend_servers_release,
    servers: ServersHandle
);

exported!(
    fn nauthilus_backend_servers_generation(
        servers: *const ServersHandle,
        generation: *mut u64,
    ) -> Done {
        let servers = handle::get("servers", servers)?;
        out("generation", generation)?.write(servers.generation);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_servers_count(servers: *const ServersHandle, count: *mut usize) -> Done {
        let servers = handle::get("servers", servers)?;
        out("count", count)?.write(servers.servers.len());
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_servers_at(
        servers: *const ServersHandle,
        index: usize,
        server: *mut Server,
        server_size: usize,
    ) -> Done {
        let servers = handle::get("servers", servers)?;
        item(&servers.servers, index)?.write(server, server_size)
    }
);
