//! Natives for LuaJIT's FFI: the functions of the request path a second time, as plain C functions.
//!
//! A call through Lua's C API ends the trace that LuaJIT compiles, and the code after it is
//! interpreted; a call through the FFI is compiled into the trace. `glue/fast.lua` has the addresses
//! of these functions and checks the arguments: userdata of the class, strings with their lengths.
//! The functions do the same as the natives of `result.rs` and `context.rs`, for the common argument
//! types. Other types, refusals and error texts are left to those natives: see [`NOT_HERE`].
//!
//! None of these functions calls Lua, so there is no allocation, error or collection of Lua's during a
//! call, and strings and userdata stay valid. No panic unwinds into Lua: see [`guarded`].

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use super::nginx::setter::Setter;
use super::own_or_shared::OwnOrShared;
use super::raw::{Item, Items, content_of, fill_contexts, fill_results, owned_of};
use super::result::field_at;
use super::routing;
use crate::engine::process::{Routes, count_selection};
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::{
    AttributeValue, Attributes, BackendResult, Bytes, PairList, Scalar, Text,
};
use crate::engine::request::server_address::is_plain_literal;

pub(super) const NATIVES: Items = &[(
    "fast",
    Item::Table(&[
        ("set_flag", Item::Address(set_flag as *const c_void)),
        ("set_text", Item::Address(set_text as *const c_void)),
        ("take", Item::Address(take as *const c_void)),
        ("stage", Item::Address(stage as *const c_void)),
        ("add_text", Item::Address(add_text as *const c_void)),
        ("add_number", Item::Address(add_number as *const c_void)),
        ("add_flag", Item::Address(add_flag as *const c_void)),
        ("add_name", Item::Address(add_name as *const c_void)),
        (
            "set_attribute",
            Item::Address(set_attribute as *const c_void),
        ),
        (
            "set_attributes",
            Item::Address(set_attributes as *const c_void),
        ),
        ("select", Item::Address(select as *const c_void)),
        ("apply", Item::Address(apply as *const c_void)),
        ("remove", Item::Address(remove as *const c_void)),
        ("route", Item::Address(route as *const c_void)),
        ("fill_results", Item::Native(fill_results)),
        ("fill_contexts", Item::Native(fill_contexts)),
    ]),
)];

/// The results of the functions here. Some of them return further numbers, as their comments say.
const DONE: c_int = 0;
/// Nothing was changed, or the call can be repeated: the glue calls the native for the same purpose.
const NOT_HERE: c_int = -1;
const _: () = assert!(routing::STALE == NOT_HERE);

/// Runs `work`. If it panics, which is a bug, or returns `None`, the glue calls the native instead.
fn guarded(work: impl FnOnce() -> Option<c_int>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.unwrap_or(NOT_HERE),
        Err(panic) => {
            // Not dropped: the destructor of a panic's payload may panic again.
            std::mem::forget(panic);
            NOT_HERE
        }
    }
}

/// The content of a userdata; `None` once it is finalised.
///
/// # Safety
///
/// `userdata` is the block of a userdata of the class whose content is `T`. It stays alive during the
/// current call from the FFI, and the reference is not used after that call.
unsafe fn handle<'a, T>(userdata: *const c_void) -> Option<&'a OwnOrShared<T>> {
    // SAFETY: such a block holds the address of its content. Only a finaliser, a native or the begin or
    // end of an nginx request replaces the content, and none of them runs during a call from the FFI.
    unsafe { (*content_of::<T>(userdata)).as_ref() }
}

/// The bytes of a Lua string.
///
/// # Safety
///
/// `text` and `length` are those of a Lua string that stays alive during the current call from the FFI,
/// and the slice is not used after that call.
unsafe fn bytes<'a>(text: *const u8, length: usize) -> &'a [u8] {
    // SAFETY: the FFI converts a string to the address of its bytes, which is never null.
    unsafe { slice::from_raw_parts(text, length) }
}

/// `take(left)` → how many are left in the counter, which is lowered by 1; 0 if none is. In a native, so that no hook runs
/// between reading and lowering it.
unsafe extern "C" fn take(left: *mut c_int) -> c_int {
    // SAFETY: the glue passes an `int[1]` that it keeps.
    unsafe {
        let number = *left;
        if number > 0 {
            *left = number - 1;
        }
        number
    }
}

/// The items of a table argument of one API call, added one by one. The call takes effect only once all
/// items are known to be of types that are handled here.
#[derive(Default)]
struct Staged {
    /// Identifies the API call: a finaliser may make one between two calls of [`add_text`] and the like.
    number: c_int,
    attributes: PairList,
    names: Vec<Bytes>,
}

thread_local! {
    static STAGED: RefCell<Staged> = RefCell::default();
}

/// Runs `work` on the items that the API call with this number has staged; `None` if another API call
/// has replaced them.
fn with_staged<T>(number: c_int, work: impl FnOnce(&mut Staged) -> T) -> Option<T> {
    // `try_with`: a finaliser may call this while the thread ends and has destroyed the variable.
    STAGED
        .try_with(|staged| {
            let mut staged = staged.try_borrow_mut().ok()?;
            (staged.number == number).then(|| work(&mut staged))
        })
        .ok()?
}

/// `stage()` → the number of a new API call; drops the items that an earlier one staged
unsafe extern "C" fn stage() -> c_int {
    guarded(|| {
        STAGED
            .try_with(|staged| {
                let mut staged = staged.try_borrow_mut().ok()?;
                staged.number = staged.number.wrapping_add(1) & c_int::MAX;
                staged.attributes.clear();
                staged.names.clear();
                Some(staged.number)
            })
            .ok()?
    })
}

fn add(staged: c_int, name: &[u8], value: Scalar) -> c_int {
    guarded(|| {
        let pair = (name.into(), AttributeValue::One(value));
        with_staged(staged, |s| s.attributes.push(pair)).map(|()| DONE)
    })
}

/// `add_text(staged, name, length, text, length)`
unsafe extern "C" fn add_text(
    staged: c_int,
    name: *const u8,
    name_length: usize,
    text: *const u8,
    text_length: usize,
) -> c_int {
    // SAFETY: the glue passes Lua strings and their lengths.
    let (name, text) = unsafe { (bytes(name, name_length), bytes(text, text_length)) };
    add(staged, name, Scalar::Bytes(Text::from_slice(text)))
}

/// `add_number(staged, name, length, value)`
unsafe extern "C" fn add_number(
    staged: c_int,
    name: *const u8,
    length: usize,
    value: f64,
) -> c_int {
    // SAFETY: the glue passes a Lua string and its length.
    let name = unsafe { bytes(name, length) };
    add(staged, name, Scalar::Float(value))
}

/// `add_flag(staged, name, length, value)`
unsafe extern "C" fn add_flag(staged: c_int, name: *const u8, length: usize, value: bool) -> c_int {
    // SAFETY: the glue passes a Lua string and its length.
    let name = unsafe { bytes(name, length) };
    add(staged, name, Scalar::Bool(value))
}

/// `add_name(staged, name, length)`
unsafe extern "C" fn add_name(staged: c_int, name: *const u8, length: usize) -> c_int {
    guarded(|| {
        // SAFETY: the glue passes a Lua string and its length.
        let name = unsafe { bytes(name, length) };
        with_staged(staged, |s| s.names.push(name.into())).map(|()| DONE)
    })
}

/// `set_flag(result, field, value)`
unsafe extern "C" fn set_flag(result: *const c_void, field: c_int, value: bool) -> c_int {
    guarded(|| {
        // SAFETY: the glue has checked that it is a result.
        let result = unsafe { handle::<BackendResult>(result)? };
        field_at(field.try_into().ok()?)?
            .set_flag(result, value)
            .then_some(DONE)
    })
}

/// `set_text(result, field, text, length)`
unsafe extern "C" fn set_text(
    result: *const c_void,
    field: c_int,
    text: *const u8,
    length: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the glue has checked that it is a result, and passes a string.
        let (result, text) = unsafe { (handle::<BackendResult>(result)?, bytes(text, length)) };
        field_at(field.try_into().ok()?)?
            .set_text(result, text)
            .then_some(DONE)
    })
}

/// `set_attribute(result, name, length, text, length)`: replaces all attributes by this one.
unsafe extern "C" fn set_attribute(
    result: *const c_void,
    name: *const u8,
    name_length: usize,
    text: *const u8,
    text_length: usize,
) -> c_int {
    guarded(|| {
        // SAFETY: the glue has checked that it is a result, and passes strings.
        let (result, name, text) = unsafe {
            (
                handle::<BackendResult>(result)?,
                bytes(name, name_length),
                bytes(text, text_length),
            )
        };
        result.with(|r| r.attributes = Attributes::text(name.into(), text));
        Some(DONE)
    })
}

/// `set_attributes(staged, result)`
unsafe extern "C" fn set_attributes(staged: c_int, result: *const c_void) -> c_int {
    guarded(|| {
        // SAFETY: the glue has checked that it is a result.
        let result = unsafe { handle::<BackendResult>(result)? };
        let attributes = with_staged(staged, |s| Attributes::take_pairs(&mut s.attributes))?;
        result.with(|r| r.attributes = attributes);
        Some(DONE)
    })
}

/// Runs `work` on the context that a call changes: on that of the nginx request, whose response headers are
/// then set, if there is a setter, else on `context`.
///
/// # Safety
///
/// The glue passes its setter and nginx's current request or null, on nginx's thread; or no setter and a
/// request context.
unsafe fn change(
    context: *const c_void,
    setter: *const Setter,
    request: *mut c_void,
    work: impl FnOnce(&mut RequestContext) -> Option<()>,
) -> Option<c_int> {
    // SAFETY: the caller guarantees what is passed; a setter is never freed, and the glue keeps it from
    // being used with an unknown version of nginx's Lua module.
    unsafe {
        match setter.as_ref() {
            Some(setter) => setter.change(request, work)?,
            None => handle::<RequestContext>(context)?.with(work)?,
        }
    }
    Some(DONE)
}

/// `select(context, setter, request, ip, length, port)`. Only takes IP addresses without brackets.
unsafe extern "C" fn select(
    context: *const c_void,
    setter: *const Setter,
    request: *mut c_void,
    ip: *const u8,
    length: usize,
    port: c_int,
) -> c_int {
    guarded(|| {
        // SAFETY: the glue passes a string.
        let ip = unsafe { bytes(ip, length) };
        let port = port.try_into().ok()?;
        is_plain_literal(ip).then_some(())?;
        // SAFETY: the glue passes what `change` asks for.
        let done = unsafe {
            change(context, setter, request, |c| {
                c.select(ip, port);
                Some(())
            })?
        };
        count_selection();
        Some(done)
    })
}

/// `apply(context, setter, request, result)`
unsafe extern "C" fn apply(
    context: *const c_void,
    setter: *const Setter,
    request: *mut c_void,
    result: *const c_void,
) -> c_int {
    guarded(|| {
        // SAFETY: the glue has checked that `result` is a result, and passes what `change` asks for.
        unsafe {
            let result = handle::<BackendResult>(result)?;
            result.with_current(|r| change(context, setter, request, |c| c.apply(r).ok()))
        }
    })
}

/// `remove(context, setter, request, staged)`
unsafe extern "C" fn remove(
    context: *const c_void,
    setter: *const Setter,
    request: *mut c_void,
    staged: c_int,
) -> c_int {
    guarded(|| {
        with_staged(staged, |s| {
            let work = |c: &mut RequestContext| {
                c.remove(s.names.drain(..));
                Some(())
            };
            // SAFETY: the glue passes what `change` asks for.
            unsafe { change(context, setter, request, work) }
        })?
    })
}

/// `route(routes, user, length)`: see [`routing::target_of`].
unsafe extern "C" fn route(routes: *const c_void, user: *const u8, length: usize) -> c_int {
    guarded(|| {
        // SAFETY: the glue passes a userdata that `prepare_routes` returned and that it keeps, and a
        // string. Only a finaliser takes the routes, and none runs during this call.
        let (routes, user) =
            unsafe { ((*owned_of::<Routes>(routes)).as_ref()?, bytes(user, length)) };
        Some(routing::target_of(routes, user))
    })
}
