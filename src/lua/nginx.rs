//! nginx with its Lua module (OpenResty): what the engine and the glue use of this host.
//!
//! The nginx binary exports its symbols to the modules it loads, so they are looked up by name when
//! this module is loaded. If a name is missing (another host, or an nginx built without it), only the
//! feature that needs it is unavailable.
//!
//! | file | what it is |
//! |---|---|
//! | `nginx/pointers.rs` | opaque pointers of nginx, and symbol lookup |
//! | `nginx/symbols.rs` | the symbols of nginx and its Lua module, and their types |
//! | `nginx/request_end.rs` | calls a handler at the end of a request |
//! | `nginx/requests.rs` | the request contexts of nginx's requests |
//! | `nginx/response.rs` | sets response headers without Lua strings, for known versions of the Lua module |
//! | `nginx/setter.rs` | changes a request's context and sets its response headers in one call |
//! | `nginx/waits.rs` | wakes the coroutine that waits for a check |

mod pointers;
mod request_end;
#[cfg(feature = "luajit")]
mod requests;
#[cfg(feature = "luajit")]
mod response;
#[cfg(feature = "luajit")]
pub(super) mod setter;
mod symbols;
mod waits;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::process::command::HostSigns;
use crate::engine::process::set_host_signs;
use crate::lua::raw::{Answer, Args, Item, Items, Natives, native};
use symbols::{ProcessRole, Symbols};

/// Adds the natives of `glue/hosts/nginx.lua`, if this process is an nginx.
///
/// # Safety
///
/// In the C function that called [`Natives::push`], with 12 free slots. May raise.
pub(super) unsafe fn register(natives: Natives) {
    let Some(symbols) = Symbols::of_process() else {
        return;
    };
    set_host_signs(HostSigns {
        exiting: || Symbols::of_process().is_some_and(Symbols::is_exiting),
        takes_addresses_only: true,
    });
    // SAFETY: the caller provides the slots, and this frame owns nothing that an error would leak.
    unsafe {
        natives.add(if symbols.wake.is_some() {
            waits::NATIVES
        } else {
            NATIVES
        });
        #[cfg(feature = "luajit")]
        if symbols.ends.is_some() {
            natives.add(requests::NATIVES);
            natives.add(setter::NATIVES);
        }
    }
}

const NATIVES: Items = &[("nginx", Item::Table(&[("is_worker", IS_WORKER)]))];

const IS_WORKER: Item = native!(is_worker);

/// `is_worker()`: whether nginx's master has forked this process.
fn is_worker(_: &Args) -> Answer {
    Answer::Bool(Symbols::of_process().is_some_and(|symbols| symbols.role() == ProcessRole::Forked))
}

/// Runs `work`. A panic must not unwind into nginx.
fn contained(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // Not dropped: the destructor of a panic's payload may panic again.
        std::mem::forget(panic);
    }
}
