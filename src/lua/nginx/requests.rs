//! The request contexts of nginx's requests, found by the request.
//!
//! `ngx.ctx` could hold them, but costs a request a table of Lua's and its removal: more than all
//! that is done with the context. So they are here, each in a place with a number; nginx says when
//! a request ends, and then its place is free for another. The Lua side has one userdata for each
//! place and uses it again, since a userdata that is finalised costs more still.
//!
//! In the log phase the request has ended, but may be asked what it held: that is there until
//! another request begins, and a note that it carries tells where.

use std::cell::{OnceCell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use mlua::ffi::lua_State;
use rustc_hash::FxHashMap;

use super::contained;
use super::request_end::{EndSymbols, Note};
use super::symbols::{Opaque, Request, Symbols};
use crate::engine::request::context::RequestContext;
use crate::lua::held::Held;
use crate::lua::raw::{Content, Item, Items, push_lasting_context};

/// The natives of `glue/hosts/nginx_contexts.lua`: the addresses of functions for the FFI, that of
/// this thread's requests, which are never freed, and `context(number)`, which gives a userdata of
/// the context in that place.
pub(super) const NATIVES: Items = &[(
    "nginx_requests",
    Item::Table(&[
        ("find", Item::Address(find as *const c_void)),
        ("find_ended", Item::Address(find_ended as *const c_void)),
        ("begin", Item::Address(begin as *const c_void)),
        ("begin_ended", Item::Address(begin_ended as *const c_void)),
        ("turn", Item::Address(turn as *const c_void)),
        ("requests", Item::AddressOf(address_of_requests)),
        ("context", Item::Native(context)),
    ]),
)];

fn address_of_requests() -> *mut c_void {
    ptr::from_ref(requests_of_thread()).cast_mut().cast()
}

thread_local! {
    /// Of nginx's thread; what `ngx.run_worker_thread` runs has no request. Never freed, as the
    /// places are not.
    static REQUESTS: OnceCell<&'static RefCell<Requests>> = const { OnceCell::new() };
}

fn requests_of_thread() -> &'static RefCell<Requests> {
    REQUESTS.with(|cell| *cell.get_or_init(|| Box::leak(Box::default())))
}

fn with_requests<T>(work: impl FnOnce(&mut Requests) -> Option<T>) -> Option<T> {
    work(&mut *requests_of_thread().try_borrow_mut().ok()?)
}

/// Numbers begin at 1; 0 is none.
type Number = c_int;

/// What a request at work has.
pub(in crate::lua) enum Current<'a> {
    Found(&'a Held<RequestContext>),
    /// It had none.
    Begun(&'a Held<RequestContext>),
    NotBegun,
}

/// The context of a request, made where it has none yet and `may_begin` says that it may begin one.
///
/// # Safety
///
/// Called on nginx's thread, with its requests and the current one, which may begin a context where nginx will
/// tell of its end. The context is not used any more once the function of ours returns that asks
/// for it, and until then nothing comes here: `may_begin` does not, either.
pub(in crate::lua) unsafe fn current<'a>(
    requests: &RefCell<Requests>,
    request: *mut c_void,
    may_begin: impl FnOnce() -> bool,
) -> Option<Current<'a>> {
    let mut requests = requests.try_borrow_mut().ok()?;
    let request = Request::of_pointer(request)?;
    if let Some(number) = requests.find(request) {
        // SAFETY: as of this function.
        return unsafe { requests.context(number).map(Current::Found) };
    }
    // The old worker of a reload closes its Lua states while it exits, and what a finaliser
    // calls there has no request: the Lua side can tell.
    if Symbols::of_process()?.is_exiting() {
        return None;
    }
    if !may_begin() {
        return Some(Current::NotBegun);
    }
    // SAFETY: as of this function.
    unsafe {
        let number = requests.begin_at_work(request)?;
        requests.context(number).map(Current::Begun)
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(in crate::lua) struct Requests {
    places: Vec<Place>,
    free: Vec<Number>,
    numbers: FxHashMap<Request, Number>,
    /// The places whose requests ended since the last one began: their contents are still there.
    /// With a request its subrequests end, in any order, before its log phase, and nothing tells
    /// them from others that end.
    ended: Vec<Number>,
}

struct Place {
    content: Lasting,
    /// How many requests have had it.
    turn: u64,
    /// Whether its request has ended, and its content is still there.
    is_ended: bool,
}

/// Memory that is never freed: userdata of Lua states point to it, whichever ends first.
struct Lasting(NonNull<UnsafeCell<Content<RequestContext>>>);

impl Lasting {
    fn new() -> Self {
        let content = Box::new(UnsafeCell::new(Some(Held::default())));
        Self(NonNull::from(Box::leak(content)))
    }

    fn get(&self) -> *mut Content<RequestContext> {
        UnsafeCell::raw_get(self.0.as_ptr())
    }

    fn clear(&mut self) {
        // SAFETY: never freed, and of this thread alone. Nobody has a reference to it: natives
        // look at a context only during a call of theirs, and none comes here meanwhile.
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

    /// A place for a request that has none.
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

    /// A place for a request that has none, until its end.
    ///
    /// # Safety
    ///
    /// Called on nginx's thread with the current request.
    unsafe fn begin_at_work(&mut self, request: Request) -> Option<Number> {
        // SAFETY: as of this function. It calls nobody back.
        unsafe { ends()?.at_end(request, on_end) }.then_some(())?;
        self.begin(request)
    }

    /// The request has ended: its place is free once another one begins.
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

    /// Whether what the note tells of is still in its place.
    fn holds(&mut self, note: &Note) -> bool {
        self.place(note.number)
            .is_some_and(|place| place.is_ended && place.turn == note.turn)
    }

    /// Frees the places of those that have ended, but for one, which it returns.
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
    /// As of [`current`]: nothing clears the place while the context is used.
    unsafe fn context<'a>(&mut self, number: Number) -> Option<&'a Held<RequestContext>> {
        // SAFETY: never freed, and as of this function.
        unsafe { (*self.place(number)?.content.get()).as_ref() }
    }

    fn place(&mut self, number: Number) -> Option<&mut Place> {
        self.places
            .get_mut(usize::try_from(number).ok()?.checked_sub(1)?)
    }
}

/// `find(request)` → the number of its place, or 0
unsafe extern "C" fn find(request: *mut Opaque) -> Number {
    numbered(|| with_requests(|requests| requests.find(Request::of_pointer(request)?)))
}

/// `begin(request)` → the number of its place, one with a new context where it had none; 0 where
/// it cannot have one
unsafe extern "C" fn begin(request: *mut Opaque) -> Number {
    numbered(|| {
        let request = Request::of_pointer(request)?;
        with_requests(|requests| match requests.find(request) {
            Some(number) => Some(number),
            // SAFETY: the glue gives the current request, on nginx's thread.
            None => unsafe { requests.begin_at_work(request) },
        })
    })
}

/// `find_ended(request)` → the number of the place it had, or 0: for the log phase
unsafe extern "C" fn find_ended(request: *mut Opaque) -> Number {
    numbered(|| {
        // SAFETY: the glue gives the current request, on nginx's thread.
        let note = unsafe { ends()?.note(Request::of_pointer(request)?, on_end_again)? };
        with_requests(|requests| requests.holds(&note).then_some(note.number))
    })
}

/// `begin_ended(request)` → the same for one that has no place in its log phase, to be found by
/// `find_ended`
unsafe extern "C" fn begin_ended(request: *mut Opaque) -> Number {
    numbered(|| {
        let request = Request::of_pointer(request)?;
        let note = with_requests(|requests| {
            requests.begin(request)?;
            requests.end(request)
        })?;
        // SAFETY: the glue gives the current request, on nginx's thread.
        unsafe { ends()?.leave(note, on_end_again) };
        Some(note.number)
    })
}

/// `turn(number)` → how many requests have had the place: with the number, what tells a request
/// from all others
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
            // SAFETY: called by nginx, of the request's end.
            unsafe { ends.leave(note, on_end_again) };
        }
    });
}

/// nginx calls this where it ends a request that has a note.
unsafe extern "C" fn on_end_again(data: *mut Opaque) {
    contained(|| {
        if let Some(ends) = ends() {
            // SAFETY: as of this function.
            unsafe { ends.keep(data, on_end_again) };
        }
    });
}

/// `context(number)` → a userdata of the context in that place
///
/// # Safety
///
/// Called by Lua, with the upvalues of natives.
unsafe extern "C-unwind" fn context(state: *mut lua_State) -> c_int {
    // SAFETY: as of this function; the content lasts as long as the process.
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
        // SAFETY: nobody else has it.
        let held = unsafe { (*content).as_ref().unwrap() };
        held.with(|c| c.selected().map(|s| s.port))
    }

    fn select(requests: &mut Requests, number: Number, port: u16) {
        let content = requests.place(number).unwrap().content.get();
        // SAFETY: nobody else has it.
        let held = unsafe { (*content).as_ref().unwrap() };
        held.with(|c| c.select("192.0.2.1", port));
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
