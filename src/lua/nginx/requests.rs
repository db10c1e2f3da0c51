//! The request contexts of nginx's requests, found by the address of the request.
//!
//! `ngx.ctx` could hold them, but its Lua table costs a request more than everything that is done with
//! the context. So each context is in a numbered *place* here, which is free again when nginx calls the
//! handler for the end of the request. The Lua side has one userdata per place and reuses it, since a
//! userdata to finalise costs even more. Row of `make bench`: "access phase in nginx".
//!
//! In the log phase the request has already ended, but scripts may still read its context. The content
//! of the place stays until another request begins, and a note in the request tells the place.

use std::cell::{OnceCell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use mlua::ffi::lua_State;
use rustc_hash::FxHashMap;

use super::contained;
use super::request_end::{EndSymbols, Note};
use super::symbols::{Opaque, Request, Symbols};
use crate::engine::request::context::RequestContext;
use crate::lua::own_or_shared::OwnOrShared;
use crate::lua::raw::{Content, Item, Items, push_lasting_context};

/// The natives of `glue/hosts/nginx_contexts.lua`: the addresses of functions for the FFI, and
/// `context(number)`, which returns a userdata of the context in that place.
pub(super) const NATIVES: Items = &[(
    "nginx_requests",
    Item::Table(&[
        ("find", Item::Address(find as *const c_void)),
        ("find_ended", Item::Address(find_ended as *const c_void)),
        ("begin", Item::Address(begin as *const c_void)),
        ("begin_ended", Item::Address(begin_ended as *const c_void)),
        ("turn", Item::Address(turn as *const c_void)),
        ("context", Item::Native(context)),
    ]),
)];

thread_local! {
    /// Only nginx's thread has requests; threads of `ngx.run_worker_thread` have none. Never freed:
    /// [`Setter`](super::setter::Setter) keeps the reference.
    static REQUESTS: OnceCell<&'static RefCell<Requests>> = const { OnceCell::new() };
}

pub(super) fn requests_of_thread() -> &'static RefCell<Requests> {
    REQUESTS.with(|cell| *cell.get_or_init(|| Box::leak(Box::default())))
}

fn with_requests<T>(work: impl FnOnce(&mut Requests) -> Option<T>) -> Option<T> {
    work(&mut *requests_of_thread().try_borrow_mut().ok()?)
}

/// The number of a place, from 1; 0 is no place.
type Number = c_int;

/// The context of a request that has not ended.
pub(super) enum Current<'a> {
    Found(&'a OwnOrShared<RequestContext>),
    /// The request had none; this one was made for it now.
    Begun(&'a OwnOrShared<RequestContext>),
}

/// The context of a request; begun if the request has none and `may_begin` returns true.
///
/// # Safety
///
/// Called on nginx's thread, with that thread's requests and its current request.
/// `may_begin` only returns true for a request whose end nginx will report. The reference is not used
/// after the current call from the FFI, and during that call nothing else begins or ends a request or
/// calls a function of this file.
pub(super) unsafe fn current<'a>(
    requests: &RefCell<Requests>,
    request: Request,
    may_begin: impl FnOnce() -> bool,
) -> Option<Current<'a>> {
    let mut requests = requests.try_borrow_mut().ok()?;
    if let Some(number) = requests.find(request) {
        // SAFETY: no place is cleared while the caller uses the reference.
        return unsafe { requests.context(number).map(Current::Found) };
    }
    // After a reload the old worker closes its Lua states while it exits. A call from a finaliser then
    // has a stale request pointer; `is_closing` in `nginx_contexts.lua` recognises that case.
    if Symbols::of_process()?.is_exiting() {
        return None;
    }
    may_begin().then_some(())?;
    // SAFETY: this is nginx's thread and its current request. No place is cleared while the caller uses
    // the reference.
    unsafe {
        let number = requests.begin_until_end(request)?;
        requests.context(number).map(Current::Begun)
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Requests {
    places: Vec<Place>,
    free: Vec<Number>,
    numbers: FxHashMap<Request, Number>,
    /// The places of requests that ended since a request last began; their contents are kept for the
    /// log phase. A main request ends together with its subrequests, in any order, and subrequests of
    /// one request cannot be told apart from other requests, so all are kept.
    ended: Vec<Number>,
}

struct Place {
    content: Lasting,
    /// How many requests have had this place.
    turn: u64,
    /// Whether its request has ended but the content is still there.
    is_ended: bool,
}

/// A content that is never freed: userdata of Lua states point to it, and a state may outlive the
/// request.
struct Lasting(NonNull<UnsafeCell<Content<RequestContext>>>);

impl Lasting {
    fn new() -> Self {
        let content = Box::new(UnsafeCell::new(Some(OwnOrShared::default())));
        Self(NonNull::from(Box::leak(content)))
    }

    fn get(&self) -> *mut Content<RequestContext> {
        UnsafeCell::raw_get(self.0.as_ptr())
    }

    fn clear(&mut self) {
        // SAFETY: the memory is never freed and only used by this thread. There is no other reference:
        // natives only use a context during their own call, and no place is cleared meanwhile.
        if let Some(content) = unsafe { (*self.get()).as_mut() } {
            content.clear(RequestContext::clear);
        }
    }
}

impl Requests {
    #[inline]
    fn find(&self, request: Request) -> Option<Number> {
        self.numbers.get(&request).copied()
    }

    /// Gives a place to a request that has none: one of those that ended, a free one or a new one.
    fn begin(&mut self, request: Request) -> Option<Number> {
        let number = match self.clear_ended().or_else(|| self.free.pop()) {
            Some(number) => number,
            None => {
                let number = Number::try_from(self.places.len() + 1).ok()?;
                self.places.push(Place {
                    content: Lasting::new(),
                    turn: 0,
                    is_ended: false,
                });
                number
            }
        };
        self.place(number)?.turn += 1;
        self.numbers.insert(request, number);
        Some(number)
    }

    /// Gives a place to a request that has none, until nginx reports its end.
    ///
    /// # Safety
    ///
    /// Called on nginx's thread with the current request.
    unsafe fn begin_until_end(&mut self, request: Request) -> Option<Number> {
        // SAFETY: this is nginx's thread and a request that is being processed. `at_end` calls no
        // handler itself, so `self` is not borrowed a second time.
        unsafe { ends()?.at_end(request, on_end) }.then_some(())?;
        self.begin(request)
    }

    /// Marks the place of a request as ended: it is free when another request begins.
    fn end(&mut self, request: Request) -> Option<Note> {
        let number = self.numbers.remove(&request)?;
        self.ended.push(number);
        let place = self.place(number)?;
        place.is_ended = true;
        let turn = place.turn;
        Some(Note {
            request,
            number,
            turn,
        })
    }

    /// Whether the context that the note refers to is still in its place.
    fn holds(&mut self, note: &Note) -> bool {
        self.place(note.number)
            .is_some_and(|place| place.is_ended && place.turn == note.turn)
    }

    /// Clears the places of requests that have ended. Returns one of them and frees the others.
    fn clear_ended(&mut self) -> Option<Number> {
        let mut last = None;
        while let Some(number) = self.ended.pop() {
            let place = self.place(number)?;
            place.content.clear();
            place.is_ended = false;
            self.free.extend(last.replace(number));
        }
        last
    }

    /// The context in a place.
    ///
    /// # Safety
    ///
    /// Nothing clears the place or replaces its content while the reference is used.
    unsafe fn context<'a>(&mut self, number: Number) -> Option<&'a OwnOrShared<RequestContext>> {
        // SAFETY: the memory is never freed, and the caller excludes other accesses.
        unsafe { (*self.place(number)?.content.get()).as_ref() }
    }

    fn place(&mut self, number: Number) -> Option<&mut Place> {
        self.places
            .get_mut(usize::try_from(number).ok()?.checked_sub(1)?)
    }
}

/// `find(request)` → the number of the request's place, or 0
unsafe extern "C" fn find(request: *mut Opaque) -> Number {
    numbered(|| with_requests(|requests| requests.find(Request::of_pointer(request)?)))
}

/// `begin(request)` → the number of the request's place, a new one if it had none; 0 if nginx has no
/// memory
unsafe extern "C" fn begin(request: *mut Opaque) -> Number {
    numbered(|| {
        let request = Request::of_pointer(request)?;
        with_requests(|requests| match requests.find(request) {
            Some(number) => Some(number),
            // SAFETY: the glue passes the current request, on nginx's thread.
            None => unsafe { requests.begin_until_end(request) },
        })
    })
}

/// `find_ended(request)` → the number of the place that a request in its log phase had, or 0
unsafe extern "C" fn find_ended(request: *mut Opaque) -> Number {
    numbered(|| {
        // SAFETY: the glue passes the current request, on nginx's thread.
        let note = unsafe { ends()?.note(Request::of_pointer(request)?, on_end_again)? };
        with_requests(|requests| requests.holds(&note).then_some(note.number))
    })
}

/// `begin_ended(request)` → the number of a new place for a request in its log phase that has none;
/// `find_ended` then finds it
unsafe extern "C" fn begin_ended(request: *mut Opaque) -> Number {
    numbered(|| {
        let request = Request::of_pointer(request)?;
        let note = with_requests(|requests| {
            requests.begin(request)?;
            requests.end(request)
        })?;
        // SAFETY: the glue passes the current request, on nginx's thread.
        unsafe { ends()?.leave(note, on_end_again) };
        Some(note.number)
    })
}

/// `turn(number)` → how many requests have had the place; number and turn together identify a request
unsafe extern "C" fn turn(number: Number) -> f64 {
    let mut turn = 0;
    contained(|| {
        turn = with_requests(|requests| Some(requests.place(number)?.turn)).unwrap_or_default();
    });
    turn as f64
}

fn numbered(work: impl FnOnce() -> Option<Number>) -> Number {
    let mut number = 0;
    contained(|| number = work().unwrap_or_default());
    number
}

fn ends() -> Option<EndSymbols> {
    Symbols::of_process()?.ends
}

/// nginx calls this when a request ends.
unsafe extern "C" fn on_end(data: *mut Opaque) {
    contained(|| {
        let noted = Request::of_pointer(data)
            .and_then(|request| with_requests(|requests| requests.end(request)));
        if let (Some(note), Some(ends)) = (noted, ends()) {
            // SAFETY: nginx calls this on its thread, while the request's pool still exists.
            unsafe { ends.leave(note, on_end_again) };
        }
    });
}

/// nginx calls this when it runs the end of a request that already has a note.
unsafe extern "C" fn on_end_again(data: *mut Opaque) {
    contained(|| {
        if let Some(ends) = ends() {
            // SAFETY: `leave` registered this handler, and nginx calls it with the note.
            unsafe { ends.keep(data, on_end_again) };
        }
    });
}

/// `context(number)` → a userdata of the context in that place
///
/// # Safety
///
/// Called by Lua, as a closure of `Natives::push_native`.
unsafe extern "C-unwind" fn context(state: *mut lua_State) -> c_int {
    // SAFETY: the closure has the upvalues, and the content of a place is never freed. `find` cannot
    // panic.
    unsafe {
        push_lasting_context(state, |number| {
            let number = Number::try_from(number).ok()?;
            with_requests(|requests| Some(requests.place(number)?.content.get()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: usize) -> Request {
        Request::at(address).unwrap()
    }

    fn selected(requests: &mut Requests, number: Number) -> Option<u16> {
        let content = requests.place(number).unwrap().content.get();
        // SAFETY: the test has no other reference to the content.
        let content = unsafe { (*content).as_ref().unwrap() };
        content.with(|c| c.selected().map(|s| s.port))
    }

    fn select(requests: &mut Requests, number: Number, port: u16) {
        let content = requests.place(number).unwrap().content.get();
        // SAFETY: the test has no other reference to the content.
        let content = unsafe { (*content).as_ref().unwrap() };
        content.with(|c| c.select("192.0.2.1", port));
    }

    #[test]
    fn requests_have_places_of_their_own_and_find_nothing_of_earlier_ones() {
        let mut requests = Requests::default();
        let numbers: Vec<Number> = (1..=5)
            .map(|address| {
                assert_eq!(requests.find(request(address)), None);
                requests.begin(request(address)).unwrap()
            })
            .collect();
        for (number, port) in numbers.iter().zip(1..) {
            assert_eq!(selected(&mut requests, *number), None);
            select(&mut requests, *number, port);
        }
        for (address, number) in (1..).zip(&numbers) {
            assert_eq!(requests.find(request(address)), Some(*number));
        }
        for (address, port) in (1..=5).zip(1..) {
            let note = requests.end(request(address)).unwrap();
            assert_eq!(requests.find(request(address)), None);
            assert!(requests.end(request(address)).is_none());
            assert!(requests.holds(&note));
            assert_eq!(selected(&mut requests, note.number), Some(port));
        }
        for address in 6..=10 {
            let number = requests.begin(request(address)).unwrap();
            assert!(numbers.contains(&number));
            assert_eq!(selected(&mut requests, number), None);
        }
    }

    #[test]
    fn a_note_does_not_outlast_what_it_tells_of() {
        let mut requests = Requests::default();
        let one = request(1);
        requests.begin(one).unwrap();
        let note = requests.end(one).unwrap();
        // Another request at the same address, in the same place.
        requests.begin(one).unwrap();
        assert!(!requests.holds(&note));
        let later = requests.end(one).unwrap();
        assert!(requests.holds(&later) && !requests.holds(&note));
    }

    #[test]
    fn a_request_and_its_subrequests_end_together() {
        let mut requests = Requests::default();
        let addresses = [1, 2, 3].map(request);
        for (address, port) in addresses.iter().zip(1..) {
            let number = requests.begin(*address).unwrap();
            select(&mut requests, number, port);
        }
        // Whichever began first.
        for order in [[0, 1, 2], [2, 1, 0]] {
            let mut again = Requests::default();
            std::mem::swap(&mut again, &mut requests);
            let notes = order.map(|n: usize| (n, again.end(addresses[n]).unwrap()));
            for (n, note) in notes {
                assert!(again.holds(&note));
                assert_eq!(selected(&mut again, note.number), u16::try_from(n + 1).ok());
            }
            for (address, port) in addresses.iter().zip(1..) {
                let number = again.begin(*address).unwrap();
                assert_eq!(selected(&mut again, number), None);
                select(&mut again, number, port);
                assert!(notes.iter().all(|(_, note)| !again.holds(note)));
            }
            requests = again;
        }
    }
}
