//! The list of alive servers, as the glue caches it.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::AtomicU64;

use mlua::ffi::{self, lua_State};

use super::given_lists::GivenList;
use super::raw::{Answer, ArgView, Args, Item, Items, LuaValue, native};
use crate::engine::active::BackendServer;
use crate::engine::process::{Start, current};
use crate::sys::fork_mark::ForkMark;

pub(super) const NATIVES: Items = &[
    ("current_list", native!(current_list)),
    ("servers", native!(servers)),
    ("words", native!(words)),
    ("seal", Item::Native(seal)),
];

/// `current_list(list)` → a new array with the servers of `list`, which has its number at index 0, if it is the list that
/// this state got last and is still current; else nil.
fn current_list(args: &Args) -> Answer {
    let number = args.number_at_0(1);
    let count = args.per_state().and_then(|own| {
        let list = own.list.borrow();
        let is_ours = list.epoch != 0 && ForkMark::of_process().get() == list.epoch;
        if list.number != number || !is_ours {
            return None;
        }
        let process = current();
        let is_current =
            process.epoch() == list.epoch && process.generation() == Some(list.generation);
        is_current
            .then(|| list.count())
            .and_then(|count| count.try_into().ok())
    });
    match count {
        Some(count) if number != 0 => Answer::Copy { table: 1, count },
        _ => Answer::Nil,
    }
}

/// `servers(may_start, number)`: epoch (0 if the list must not be kept), generation, the number of the
/// new list, and an array with an item per server: its index in list `number` if it is in there, else
/// a table of its fields. Or nil and why there is no configuration.
fn servers(args: &Args) -> Answer {
    let (may_start, number) = (args.view(1) == ArgView::Bool(true), args.count(2));
    let process = current();
    if let Err(reason) = process.configure_from_environment() {
        return Answer::Values(vec![LuaValue::Nil, String::from(reason).into()]);
    }
    let (epoch, snapshot) = process.keepable_snapshot(super::start::start_if(may_start));
    let next = GivenList::new(epoch, snapshot.generation, &snapshot.servers);
    let next_number = next.number;
    let before = match args.per_state() {
        Some(own) => own.list.replace(next),
        None => GivenList::default(),
    };
    let indices = if before.number == number {
        before.indices_of(&snapshot.servers)
    } else {
        vec![None; snapshot.servers.len()]
    };
    let items = snapshot.servers.iter().zip(indices);
    let item =
        |(server, index): (_, Option<u64>)| index.map_or_else(|| fields(server), LuaValue::from);
    Answer::Values(vec![
        epoch.into(),
        snapshot.generation.into(),
        next_number.into(),
        LuaValue::List(items.map(item).collect()),
    ])
}

/// The fields of a server object. Credentials are never among them.
pub(super) fn fields(server: &BackendServer) -> LuaValue {
    let target = &server.target;
    LuaValue::Table(vec![
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
        ("weight", server.weight.into()),
        ("state", server.state.name().into()),
    ])
}

/// `words()`: the addresses of the words that hold epoch and generation, and a userdata that keeps them
/// valid until it is finalised. nil without a configuration, and where the kernel cannot zero the epoch
/// on a fork (see [`ForkMark::word`]): a child would take its parent's epoch for its own.
fn words(_: &Args) -> Answer {
    let process = current();
    let (Some(mark), Some(active)) = (
        ForkMark::of_process().word(),
        process.active(Start::Forbidden),
    ) else {
        return Answer::Nil;
    };
    let address =
        |word: &AtomicU64| LuaValue::Address(ptr::from_ref(word).cast_mut().cast::<c_void>());
    Answer::Values(vec![
        address(mark),
        address(active.table.generation_word()),
        LuaValue::ActiveConfig(active),
    ])
}

/// `seal(metatable)`: an empty userdata with that metatable. Scripts cannot `rawset` into it as they can
/// into a table, so all callers can share one object.
unsafe extern "C-unwind" fn seal(state: *mut lua_State) -> c_int {
    // SAFETY: three of the 20 slots of a C function are used. No Rust value is alive that an error
    // (out of memory) would leak. The userdata has no content.
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
