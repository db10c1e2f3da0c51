//! The list of alive servers, as the glue caches it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use mlua::ffi::{self, lua_State};
use mlua::prelude::*;

use super::raw::{Answer, Args, Natives, View, native};
use crate::engine::active::{ActiveConfig, BackendServer};
use crate::engine::process::{Start, current};
use crate::engine::target::Target;
use crate::sys::fork_mark::ForkMark;

/// The natives that are off the request path.
pub(super) const COLD: &[&str] = &["servers", "words"];

pub(super) fn register(natives: &Natives) -> LuaResult<()> {
    let (lua, native) = (natives.lua(), natives.table());
    natives.add("current_list", native!(current_list))?;
    let lists = Lists::default();
    native.raw_set(
        "servers",
        lua.create_function(move |lua, (may_start, number)| {
            servers(lua, &lists, may_start, number)
        })?,
    )?;
    native.raw_set("words", lua.create_function(words)?)?;
    // SAFETY: `seal` is a lua_CFunction that keeps to Lua's stack discipline.
    native.raw_set("seal", unsafe { lua.create_c_function(seal)? })?;
    Ok(())
}

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

/// The lists that a Lua state is given: what it has of the last need not be made again.
#[derive(Default)]
struct Lists {
    /// How many there were. No two ever have one number, or indices of one would be taken for
    /// those of another.
    count: Cell<u64>,
    last: RefCell<Given>,
}

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

impl Given {
    fn new(number: u64, servers: &[BackendServer]) -> Self {
        let given = |server: &BackendServer| GivenServer {
            target: Arc::downgrade(&server.target),
            ip: server.ip.clone(),
        };
        Self {
            number,
            servers: servers.iter().map(given).collect(),
        }
    }

    /// For each of these servers the index, from 1, that it has in this list. While a weak
    /// pointer lives no other target has its address.
    fn indices_of(&self, servers: &[BackendServer]) -> Vec<Option<usize>> {
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
fn servers(lua: &Lua, lists: &Lists, may_start: bool, number: u64) -> LuaResult<LuaMultiValue> {
    let process = current();
    if let Err(reason) = process.configure_from_environment() {
        return (LuaNil, reason).into_lua_multi(lua);
    }
    let (epoch, snapshot) = process.keepable_snapshot(super::start_if(may_start));
    let next = lists.count.get() + 1;
    lists.count.set(next);
    // Making the tables may run finalisers, which may come here, too: nothing is borrowed then.
    let before = lists.last.take();
    let indices = if before.number == number {
        before.indices_of(&snapshot.servers)
    } else {
        vec![None; snapshot.servers.len()]
    };
    drop(before);
    let list = lua.create_table_with_capacity(snapshot.servers.len(), 0)?;
    for (at, (server, index)) in (1..).zip(snapshot.servers.iter().zip(indices)) {
        match index {
            Some(index) => list.raw_set(at, index)?,
            None => list.raw_set(at, fields(lua, server)?)?,
        }
    }
    lists.last.replace(Given::new(next, &snapshot.servers));
    (epoch, snapshot.generation, next, list).into_lua_multi(lua)
}

/// What a server object shows; never a credential.
fn fields(lua: &Lua, server: &BackendServer) -> LuaResult<LuaTable> {
    let target = &server.target;
    let table = lua.create_table_with_capacity(0, 10)?;
    table.raw_set("ip", server.ip.as_str())?;
    table.raw_set("host", target.host.to_string())?;
    table.raw_set("port", target.port)?;
    table.raw_set("protocol", target.protocol.name())?;
    table.raw_set("haproxy_v2", target.haproxy_v2)?;
    table.raw_set("tls", target.implicit_tls())?;
    table.raw_set("tls_mode", target.tls_mode.name())?;
    table.raw_set("tls_skip_verify", target.tls_skip_verify)?;
    table.raw_set("deep_check", target.deep_check)?;
    table.raw_set("request_uri", &*target.request_uri)?;
    Ok(table)
}

/// Keeps shared memory mapped for as long as Lua holds an address in it.
struct Anchor(#[allow(dead_code)] Arc<ActiveConfig>);

impl LuaUserData for Anchor {}

/// `words()`: the addresses of the epoch's and the generation's words, and what keeps them
/// valid; nil where a word alone does not tell.
fn words(lua: &Lua, (): ()) -> LuaResult<LuaMultiValue> {
    let process = current();
    let (Some(mark), Some(active)) = (
        ForkMark::of_process().word(),
        process.active(Start::Forbidden),
    ) else {
        return LuaNil.into_lua_multi(lua);
    };
    let address =
        |word: &AtomicU64| LuaLightUserData(ptr::from_ref(word).cast_mut().cast::<c_void>());
    let addresses = (address(mark), address(active.table.generation_word()));
    (
        addresses.0,
        addresses.1,
        lua.create_userdata(Anchor(active))?,
    )
        .into_lua_multi(lua)
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
