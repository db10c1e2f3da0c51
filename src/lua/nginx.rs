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

use crate::engine::process::set_host_signs;
use crate::engine::process::thread::HostSigns;
use crate::lua::raw::{Answer, Args, Item, Items, Natives, native};
use symbols::{ProcessRole, Symbols};

/// Registers the natives of `glue/hosts/nginx.lua`, in an nginx.
///
/// # Safety
///
/// As of [`Natives::add`].
pub(super) unsafe fn register(natives: Natives) {
    let Some(symbols) = Symbols::of_process() else {
        return;
    };
    set_host_signs(HostSigns {
        exiting: || Symbols::of_process().is_some_and(Symbols::is_exiting),
        takes_addresses_only: true,
    });
    // SAFETY: as of this function.
    unsafe {
        natives.add(if symbols.wake.is_some() {
            waits::NATIVES
        } else {
            NATIVES
        });
        #[cfg(feature = "luajit")]
        if symbols.ends.is_some() {
            natives.add(requests::NATIVES);
        }
    }
}

const NATIVES: Items = &[("nginx", Item::Table(&[("is_worker", IS_WORKER)]))];

const IS_WORKER: Item = native!(is_worker);

/// `is_worker()`: whether this is a process that nginx's master has forked.
fn is_worker(_: &Args) -> Answer {
    Answer::Bool(Symbols::of_process().is_some_and(|symbols| symbols.role() == ProcessRole::Forked))
}

/// No panic reaches nginx.
fn contained(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // Dropping a payload could panic again.
        std::mem::forget(panic);
    }
}
