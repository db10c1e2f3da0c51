//! Changes the context of an nginx request and sets the response headers that this changes, in one call
//! without Lua strings. Row of `make bench`: "access phase in nginx".

use std::cell::{OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr;

use super::pointers::Request;
use super::requests::{self, Current, Requests, requests_of_thread};
use super::response::{FIRST_VERSION, LAST_VERSION, ResponseSymbols};
use super::symbols::Symbols;
use crate::engine::request::context::RequestContext;
use crate::lua::own_or_shared::OwnOrShared;
use crate::lua::raw::{Item, Items};

/// The natives of `glue/hosts/nginx_headers.lua`: the address of this thread's [`Setter`], which is never
/// freed, null where nginx does not export what it needs; and the versions of the Lua module that it can
/// be used with.
pub(super) const NATIVES: Items = &[(
    "nginx_setter",
    Item::Table(&[
        ("address", Item::AddressOf(address_of_setter)),
        ("FIRST_VERSION", Item::Number(FIRST_VERSION)),
        ("LAST_VERSION", Item::Number(LAST_VERSION)),
    ]),
)];

fn address_of_setter() -> *mut c_void {
    thread_local! {
        static SETTER: OnceCell<Option<&'static Setter>> = const { OnceCell::new() };
    }
    SETTER
        .with(|cell| *cell.get_or_init(|| Some(Box::leak(Box::new(Setter::of_thread()?)))))
        .map_or(ptr::null_mut(), |setter| {
            ptr::from_ref(setter).cast_mut().cast()
        })
}

/// The requests of a thread, and the functions that set their response headers. The FFI passes it to each
/// call: finding both anew would cost a lookup in the thread's storage.
pub(in crate::lua) struct Setter {
    requests: &'static RefCell<Requests>,
    response: ResponseSymbols,
}

impl Setter {
    fn of_thread() -> Option<Self> {
        Some(Self {
            requests: requests_of_thread(),
            response: Symbols::of_process()?.response?,
        })
    }

    /// Runs `change` on the context of a request whose headers were not sent yet, and sets the response
    /// headers that this changes. A request without a context begins one, where its phase allows that.
    /// `None`: `change` refused, or was not run, or a header could not be set; then none counts as
    /// reported, and the call can be repeated through Lua, which words what is wrong.
    ///
    /// # Safety
    ///
    /// The version of the Lua module is one from [`FIRST_VERSION`] to [`LAST_VERSION`]. `request` is null or
    /// nginx's current request, and this is nginx's thread.
    pub(in crate::lua) unsafe fn change(
        &self,
        request: *mut c_void,
        change: impl FnOnce(&mut RequestContext) -> Option<()>,
    ) -> Option<()> {
        let request = Request::of_pointer(request)?;
        let response = &self.response;
        // SAFETY: the caller guarantees version, request and thread.
        let is_open = || unsafe { response.is_open(request) };
        // SAFETY: as for `is_open`.
        let may_begin = || unsafe { response.may_begin(request) } && is_open();
        // SAFETY: this is nginx's thread and its current request, and the context is not used after this
        // call; nothing in it ends or begins another request. The phases of `may_begin` have a request
        // whose end nginx reports.
        let context = match unsafe { requests::current(self.requests, request, may_begin)? } {
            Current::Begun(context) => context,
            Current::Found(context) => is_open().then_some(context)?,
        };
        // SAFETY: as for `is_open`.
        let mut set =
            |name: &str, value: Option<&[u8]>| unsafe { response.set(request, name, value) };
        let all_set = if context.is_shared() {
            context.with(change)?;
            report_to_several(context, &mut set)
        } else {
            context.with(|c| {
                change(c)?;
                Some(c.report(&mut set))
            })?
        };
        all_set.then_some(())
    }
}

/// Sets a header, or clears it if there is no value; returns whether nginx accepted that.
type SetOne<'a> = &'a mut dyn FnMut(&str, Option<&[u8]>) -> bool;

/// Sets the headers of a context with several handles. The changes are copied out first: nginx may
/// block while it writes to its log, and other threads would wait for the context's lock.
#[cold]
fn report_to_several(context: &OwnOrShared<RequestContext>, set: SetOne<'_>) -> bool {
    let mut all_set = true;
    let changes = context.with(RequestContext::take_changes);
    changes.for_each(|name, value| all_set = all_set && set(name, value));
    if !all_set {
        context.with(RequestContext::report_anew);
    }
    all_set
}
