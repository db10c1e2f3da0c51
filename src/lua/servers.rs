//! The list of alive servers, as the glue caches it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mlua_sys::{self as ffi, lua_State};

use super::raw::{Answer, Args, Item, Items, Value, View, native};
use crate::engine::active::BackendServer;
use crate::engine::process::{Start, current};
use crate::engine::target::Target;
use crate::sys::fork_mark::ForkMark;

pub(super) const NATIVES: Items = &[
    ("current_list", native!(current_list)),
    ("servers", native!(servers)),
    ("words", native!(words)),
    ("seal", Item::Native(seal)),
];

/// `current_list(epoch, generation, list, count)` → a new array of the first `count` items of
/// `list`, if that was made at these two and they still are; else nil. No epoch is 0.
fn current_list(args: &Args) -> Answer {
    let (epoch, generation) = (args.count(1), args.count(2));
    let is_current = || {
        let process = current();
        process.epoch() == epoch && process.generation() == Some(generation)
    };
    let is_ours = epoch != 0 && ForkMark::of_process().get() == epoch;
    if !is_ours || args.view(3) != View::Table || !is_current() {
        return Answer::Nil;
    }
    Answer::Copy {
        table: 3,
        count: args.count(4).try_into().unwrap_or(0),
    }
}

/// The last list that a Lua state was given: what it has of that need not be made again.
#[derive(Default)]
pub(super) struct Lists(RefCell<Given>);

/// A list that was given.
#[derive(Default)]
struct Given {
    /// From 1; 0 is no list's.
    number: u64,
    servers: Vec<GivenServer>,
}

/// What tells a server apart from others. Not the target itself, which would keep what a
/// configuration that was replaced has of it, a password too.
struct GivenServer {
    target: Weak<Target>,
    ip: String,
}

/// No two lists of a process ever have one number, or indices of one would be taken for those of
/// another.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

impl Given {
    fn new(servers: &[BackendServer]) -> Self {
        let given = |server: &BackendServer| GivenServer {
            target: Arc::downgrade(&server.target),
            ip: server.ip.clone(),
        };
        Self {
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
            servers: servers.iter().map(given).collect(),
        }
    }

    /// For each of these servers the index, from 1, that it has in this list. While a weak
    /// pointer lives no other target has its address.
    fn indices_of(&self, servers: &[BackendServer]) -> Vec<Option<u64>> {
        let known: HashMap<_, _> = (1..)
            .zip(&self.servers)
            .map(|(index, server)| (server.target.as_ptr(), (index, &server.ip)))
            .collect();
        let index_of = |server: &BackendServer| {
            let (index, ip) = known.get(&Arc::as_ptr(&server.target))?;
            (**ip == server.ip).then_some(*index)
        };
        servers.iter().map(index_of).collect()
    }
}

/// `servers(may_start, number)`: epoch (0 where the list must not be kept), generation, the
/// list's number, and an array that has for each server its fields, or its index in the list of
/// the number given, where it is there; or nil and why there is no configuration.
fn servers(args: &Args) -> Answer {
    let (may_start, number) = (args.view(1) == View::Bool(true), args.count(2));
    let process = current();
    if let Err(reason) = process.configure_from_environment() {
        return Answer::Values(vec![Value::Nil, reason.into()]);
    }
    let (epoch, snapshot) = process.keepable_snapshot(super::start_if(may_start));
    let next = Given::new(&snapshot.servers);
    let next_number = next.number;
    let before = match args.lists() {
        Some(Lists(last)) => last.replace(next),
        None => Given::default(),
    };
    let indices = if before.number == number {
        before.indices_of(&snapshot.servers)
    } else {
        vec![None; snapshot.servers.len()]
    };
    let items = snapshot.servers.iter().zip(indices);
    let item =
        |(server, index): (_, Option<u64>)| index.map_or_else(|| fields(server), Value::from);
    Answer::Values(vec![
        epoch.into(),
        snapshot.generation.into(),
        next_number.into(),
        Value::List(items.map(item).collect()),
    ])
}

/// What a server object shows; never a credential.
pub(super) fn fields(server: &BackendServer) -> Value {
    let target = &server.target;
    Value::Table(vec![
        ("ip", server.ip.clone().into()),
        ("host", target.host.to_string().into()),
        ("port", target.port.into()),
        ("protocol", target.protocol.name().into()),
        ("haproxy_v2", target.haproxy_v2.into()),
        ("tls", target.implicit_tls().into()),
        ("tls_mode", target.tls_mode.name().into()),
        ("tls_skip_verify", target.tls_skip_verify.into()),
        ("deep_check", target.deep_check.into()),
        ("request_uri", target.request_uri.to_string().into()),
        ("node", target.node().into_owned().into()),
        ("pool", target.placement.pool.to_string().into()),
        ("weight", target.placement.weight.into()),
    ])
}

/// `words()`: the addresses of the epoch's and the generation's words, and a userdata that keeps
/// them valid until it is finalised; nil where a word alone does not tell.
fn words(_: &Args) -> Answer {
    let process = current();
    let (Some(mark), Some(active)) = (
        ForkMark::of_process().word(),
        process.active(Start::Forbidden),
    ) else {
        return Answer::Nil;
    };
    let address =
        |word: &AtomicU64| Value::Address(ptr::from_ref(word).cast_mut().cast::<c_void>());
    Answer::Values(vec![
        address(mark),
        address(active.table.generation_word()),
        Value::Service(active),
    ])
}

/// `seal(metatable)`: an empty userdata with that metatable. Unlike a table, nobody can
/// `rawset` into it, so one object serves all callers.
unsafe extern "C-unwind" fn seal(state: *mut lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values on its stack; nothing here owns a Rust
    // value that an error of Lua's (out of memory) would skip. The userdata has no content.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_istable(state, 1) == 0 {
            return 0;
        }
        ffi::lua_newuserdata(state, 0);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setmetatable(state, -2);
    }
    1
}
