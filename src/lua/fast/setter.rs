//! Sets nginx's response headers without Lua, in the same call that changes the request context.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};

use super::outcome;
use crate::engine::request::context::RequestContext;
use crate::lua::held::Held;
use crate::lua::nginx::requests::{self, Current, Requests};

/// `ngx_http_lua_ffi_set_resp_header` of nginx's Lua module: request, name and length, whether the
/// header is cleared, value and length, several values and their number (unused here), whether an
/// earlier value is replaced, and where to write the error message.
type SetHeader = unsafe extern "C" fn(
    *mut c_void,
    *const u8,
    usize,
    c_int,
    *const u8,
    usize,
    *const c_void,
    usize,
    c_int,
    *mut c_void,
) -> c_int;

/// `ngx_http_lua_ffi_headers_sent`: 0 while the response headers are not sent, negative for a request
/// without a response.
type HeadersSent = unsafe extern "C" fn(*mut c_void) -> c_int;

/// `ngx_http_lua_ffi_get_phase`: request, and where to write the error message. Returns a bit for the
/// phase, or a negative number outside of all phases.
type GetPhase = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// Sets a header, or clears it if there is no value; returns whether nginx accepted that.
type SetOne<'a> = &'a mut dyn FnMut(&str, Option<&[u8]>) -> bool;

/// [`Setter`] as the FFI declares it. `glue/hosts/nginx_headers.lua` fills it in, with `begins` 0.
pub(super) const DECLARATION: &str =
    "struct { void *requests, *set_header, *problem, *headers_sent, *get_phase; int begins; }";

/// The functions of nginx that set response headers, and the requests of the thread.
#[repr(C)]
pub(super) struct Setter {
    /// The requests of the thread that loaded the module into this Lua state, never freed. That is
    /// nginx's thread in a state that handles requests. Null where `nginx/requests.rs` is not in use.
    requests: *const RefCell<Requests>,
    set_header: Option<SetHeader>,
    problem: *mut c_void,
    headers_sent: Option<HeadersSent>,
    get_phase: Option<GetPhase>,
    /// The bits of the phases in which a request may begin a context, learned from the glue, which
    /// knows phases by name. The answer depends on the phase alone, so it can be remembered.
    begins: Cell<c_int>,
}

impl Setter {
    /// Runs `change` on the context of a request whose headers were not sent yet, and sets the response
    /// headers that this changes. `may_begin`: the glue has found that a context may be begun in this
    /// phase; false means that it has not checked. `change` returns `None` if it refuses. Returns an
    /// outcome as the functions of `fast` do.
    ///
    /// # Safety
    ///
    /// The glue has filled in this setter with functions of the declared types. `request` is null or
    /// nginx's current request, and this is nginx's thread.
    pub(super) unsafe fn decide(
        &self,
        request: *mut c_void,
        may_begin: bool,
        change: impl FnOnce(&mut RequestContext) -> Option<()>,
    ) -> Option<c_int> {
        // SAFETY: `headers_sent` has the declared type. `current` has checked that the request is not
        // null before this is called.
        let is_open = || unsafe { self.headers_sent.is_some_and(|sent| sent(request) == 0) };
        // SAFETY: `current` calls this with nginx's current request only.
        let begins = || unsafe { self.begins_in_phase(request, may_begin) } && is_open();
        // SAFETY: `requests` is null or never freed. This is nginx's thread, and the context is not used
        // after this call; nothing in it ends or begins another request.
        let context = match unsafe { requests::current(self.requests.as_ref()?, request, begins)? }
        {
            Current::Begun(context) => context,
            Current::Found(context) => is_open().then_some(context)?,
            Current::NotBegun => return Some(outcome::NOT_BEGUN),
        };
        // SAFETY: the request is nginx's current one, and not null: `current` found its context.
        let mut set = |name: &str, value: Option<&[u8]>| unsafe { self.set(request, name, value) };
        let all_set = if context.is_shared() {
            context.with(change)?;
            report_to_several(context, &mut set)
        } else {
            context.with(|c| {
                change(c)?;
                Some(c.report(&mut set))
            })?
        };
        Some(reported(all_set))
    }

    /// Whether a context may be begun in the phase that the request is in. Remembers the phase where
    /// the glue says so.
    ///
    /// # Safety
    ///
    /// The glue has filled in this setter, and `request` is the current request of nginx's thread.
    unsafe fn begins_in_phase(&self, request: *mut c_void, may_begin: bool) -> bool {
        let Some(get_phase) = self.get_phase else {
            return may_begin;
        };
        // SAFETY: `get_phase` has the declared type, and `problem` has room for the pointer it writes.
        let phase = unsafe { get_phase(request, self.problem) };
        // Anything but a single bit is an error or a set of phases, and is not remembered.
        if phase <= 0 || phase & (phase - 1) != 0 {
            return may_begin;
        }
        let known = self.begins.get();
        if may_begin {
            self.begins.set(known | phase);
        }
        may_begin || known & phase != 0
    }

    /// Sets a header, or clears it if there is no value; false if nginx refused.
    ///
    /// # Safety
    ///
    /// The glue has filled in this setter: the functions have the declared types, and `problem` points
    /// to memory that stays allocated, where they write a pointer. `request` is the current request of
    /// nginx's thread.
    // Not inlined: it has several callers, and copies of it would take room in the instruction cache,
    // which is cold when a request gets here.
    #[inline(never)]
    unsafe fn set(&self, request: *mut c_void, name: &str, value: Option<&[u8]>) -> bool {
        const OVERRIDE: c_int = 1;
        // `NGX_OK`: it was set. `NGX_DECLINED`: nginx sets a header of this name itself.
        const DONE: c_int = 0;
        const DECLINED: c_int = -5;
        let Some(set_header) = self.set_header else {
            return false;
        };
        let bytes = value.unwrap_or_default();
        // SAFETY: `set_header` has the declared type. It copies what it keeps, and calls no Lua.
        let outcome = unsafe {
            set_header(
                request,
                name.as_ptr(),
                name.len(),
                value.is_none().into(),
                bytes.as_ptr(),
                bytes.len(),
                std::ptr::null(),
                0,
                OVERRIDE,
                self.problem,
            )
        };
        matches!(outcome, DONE | DECLINED)
    }
}

/// Sets the response headers that changed, unless there is no setter. If one cannot be set, none counts
/// as reported, and [`outcome::UNREPORTED`] makes the glue set them all again through Lua, which raises
/// an error that says what is wrong.
///
/// # Safety
///
/// `setter` is null or one that the glue has filled in. `request` is null or the current request of
/// nginx's thread.
pub(super) unsafe fn changed(
    context: &Held<RequestContext>,
    setter: *const Setter,
    request: *mut c_void,
) -> c_int {
    // SAFETY: it is null or a struct that the glue keeps as long as the Lua state.
    let Some(setter) = (unsafe { setter.as_ref() }) else {
        return outcome::DONE;
    };
    // nginx's functions do not check for null.
    if request.is_null() {
        return outcome::UNREPORTED;
    }
    // SAFETY: the glue has filled in the setter, and the request is the current one and not null.
    let mut set = |name: &str, value: Option<&[u8]>| unsafe { setter.set(request, name, value) };
    reported(if context.is_shared() {
        report_to_several(context, &mut set)
    } else {
        context.with(|c| c.report(&mut set))
    })
}

fn reported(all_set: bool) -> c_int {
    if all_set {
        outcome::DONE
    } else {
        outcome::UNREPORTED
    }
}

/// Sets the headers of a context with several handles. The changes are copied out first: nginx may
/// block while it writes to its log, and other threads would wait for the context's lock.
#[cold]
fn report_to_several(context: &Held<RequestContext>, set: SetOne<'_>) -> bool {
    let mut all_set = true;
    let changes = context.with(RequestContext::take_changes);
    changes.for_each(|name, value| all_set = all_set && set(name, value));
    if !all_set {
        context.with(RequestContext::report_anew);
    }
    all_set
}
