//! Setting nginx's response headers without Lua: what a function of the API decides becomes
//! headers in the same call.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};

use super::outcome;
use crate::engine::request::context::RequestContext;
use crate::lua::held::Held;
use crate::lua::nginx::requests::{self, Current, Requests};

/// How nginx's Lua module declares to its own Lua code what sets a response header: request, name,
/// whether it is cleared, value, several values (none here), whether an earlier one is replaced,
/// and where it says what is wrong.
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

/// How it declares what tells whether a request's response headers were sent: 0 where they were
/// not; also negative, where the request is none that answers.
type HeadersSent = unsafe extern "C" fn(*mut c_void) -> c_int;

/// How it declares what tells in which phase a request is: a bit for each, negative where in none;
/// and where it says what is wrong.
type GetPhase = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// Sets a header, or clears it, and says whether that was done.
type SetOne<'a> = &'a mut dyn FnMut(&str, Option<&[u8]>) -> bool;

/// [`Setter`], as the FFI fills it in; `begins` is 0.
pub(super) const DECLARATION: &str =
    "struct { void *requests, *set_header, *problem, *headers_sent, *get_phase; int begins; }";

/// What sets the response headers of a host.
#[repr(C)]
pub(super) struct Setter {
    /// Those of the thread that loaded the module into this Lua state, never freed: nginx's, in a state
    /// that has requests. Null where they have no contexts of their own.
    requests: *const RefCell<Requests>,
    set_header: Option<SetHeader>,
    problem: *mut c_void,
    headers_sent: Option<HeadersSent>,
    get_phase: Option<GetPhase>,
    /// The phases in which a request may begin a context, as far as the glue has said so: it knows
    /// them by their names. Nothing but the phase decides.
    begins: Cell<c_int>,
}

impl Setter {
    /// Changes the context of a request whose headers were not sent yet; what that changes becomes
    /// headers at once. `may_begin`: the glue says that in this phase a context may be begun; else it
    /// has not checked. `change` changes the context, or returns none if it refuses to. Answers as the
    /// functions of `fast`.
    ///
    /// # Safety
    ///
    /// As of [`Self::set`].
    pub(super) unsafe fn decide(
        &self,
        request: *mut c_void,
        may_begin: bool,
        change: impl FnOnce(&mut RequestContext) -> Option<()>,
    ) -> Option<c_int> {
        // SAFETY: as of this function.
        let is_open = || unsafe { self.headers_sent.is_some_and(|sent| sent(request) == 0) };
        // SAFETY: as of this function.
        let begins = || unsafe { self.begins_in_phase(request, may_begin) } && is_open();
        // SAFETY: as of this function.
        let context = match unsafe { requests::current(self.requests.as_ref()?, request, begins)? }
        {
            Current::Begun(context) => context,
            Current::Found(context) => is_open().then_some(context)?,
            Current::NotBegun => return Some(outcome::NOT_BEGUN),
        };
        // SAFETY: as of this function.
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

    /// Whether a context may be begun in the phase that the request is in.
    ///
    /// # Safety
    ///
    /// As of [`Self::set`].
    unsafe fn begins_in_phase(&self, request: *mut c_void, may_begin: bool) -> bool {
        let Some(get_phase) = self.get_phase else {
            return may_begin;
        };
        // SAFETY: as of this function.
        let phase = unsafe { get_phase(request, self.problem) };
        // Only a single bit is a phase.
        if phase <= 0 || phase & (phase - 1) != 0 {
            return may_begin;
        }
        let known = self.begins.get();
        if may_begin {
            self.begins.set(known | phase);
        }
        may_begin || known & phase != 0
    }

    /// Sets a header, or clears it; false where that was not done.
    ///
    /// # Safety
    ///
    /// The glue has checked that the functions are what their types here say, and keeps `problem`,
    /// where they write a pointer; `request` is the current one, and only nginx's thread has one.
    // Called at several places, which are to be short: what a request runs through is cold code.
    #[inline(never)]
    unsafe fn set(&self, request: *mut c_void, name: &str, value: Option<&[u8]>) -> bool {
        const OVERRIDE: c_int = 1;
        // It was set, or nginx sets a header of this name itself.
        const DONE: c_int = 0;
        const DECLINED: c_int = -5;
        let Some(set_header) = self.set_header else {
            return false;
        };
        let bytes = value.unwrap_or_default();
        // SAFETY: as of this function. It copies what it keeps, and calls no Lua.
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

/// Sets the headers that changed, where something is there to set them. Where one cannot be set
/// none counts as reported, and [`outcome::UNREPORTED`] has another way tell the host, which also
/// says what is wrong.
///
/// # Safety
///
/// `setter` is null or one that the glue has filled in, and `request` is the current one or null.
pub(super) unsafe fn changed(
    context: &Held<RequestContext>,
    setter: *const Setter,
    request: *mut c_void,
) -> c_int {
    // SAFETY: as of this function.
    let Some(setter) = (unsafe { setter.as_ref() }) else {
        return outcome::DONE;
    };
    // C would follow a null pointer.
    if request.is_null() {
        return outcome::UNREPORTED;
    }
    // SAFETY: as of this function.
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

/// nginx, which may write to its log, is not called under a lock that others wait for.
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
