//! nginx with its Lua module (OpenResty): what the engine and the glue need of this host.
//!
//! The nginx binary exports its symbols to the modules it loads, so what is used here is looked
//! up by name when the module is loaded; where a name is missing, in an nginx built otherwise
//! or in another host, the feature behind it is not there and nothing else changes.
//!
//! | file | what it is |
//! |---|---|
//! | `nginx/pointers.rs` | pointers of nginx that are only passed on |
//! | `nginx/symbols.rs` | the names of nginx that are used, and how |
//! | `nginx/request_end.rs` | tells of the end of a request |
//! | `nginx/requests.rs`, `nginx/requests/` | the request contexts of nginx's requests |
//! | `nginx/waits.rs` | wakes the coroutine that waits for a check |

mod pointers;
mod request_end;
#[cfg(feature = "luajit")]
pub(super) mod requests;
mod symbols;
mod waits;

use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::prelude::*;

use crate::engine::process::set_host_signs;
use crate::engine::process::thread::HostSigns;
use crate::lua::raw::Natives;
use symbols::{Role, Symbols};

/// Registers the natives of `glue/hosts/nginx.lua`, in an nginx.
pub(super) fn register(natives: &Natives) -> LuaResult<()> {
    let Some(symbols) = Symbols::of_process() else {
        return Ok(());
    };
    set_host_signs(HostSigns {
        exiting: || Symbols::of_process().is_some_and(Symbols::is_exiting),
    });
    let lua = natives.lua();
    let table = lua.create_table()?;
    table.raw_set("is_worker", lua.create_function(is_worker)?)?;
    waits::register(lua, &table, symbols)?;
    #[cfg(feature = "luajit")]
    if symbols.ends.is_some() {
        requests::register(natives)?;
    }
    natives.table().raw_set("nginx", table)
}

/// `is_worker()`: whether this is a process that nginx's master has forked.
fn is_worker(_: &Lua, (): ()) -> LuaResult<bool> {
    Ok(Symbols::of_process().is_some_and(|symbols| symbols.role() == Role::Forked))
}

/// No panic reaches nginx.
fn contained(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // Dropping a payload could panic again.
        std::mem::forget(panic);
    }
}
