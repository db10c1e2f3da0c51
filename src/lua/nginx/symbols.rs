//! The symbols of nginx and its Lua module that this library uses.
//!
//! All are part of nginx's interface for modules that are built separately; their types have not
//! changed since nginx 1.4 and lua-nginx-module 0.10.15.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use once_cell::race::OnceBox;

use super::pointers::at;
pub(super) use super::pointers::{Opaque, Request, address};
use super::request_end::EndSymbols;
#[cfg(feature = "luajit")]
use super::response::ResponseSymbols;

/// A semaphore of the Lua module: `ngx_http_lua_sema_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Semaphore(NonNull<Opaque>);

pub(super) type EventHandler = unsafe extern "C" fn(*mut Opaque);

type AddChannelEvent = unsafe extern "C" fn(*mut Opaque, c_int, isize, EventHandler) -> isize;
type PostSemaphore = unsafe extern "C" fn(*mut Opaque, c_int) -> c_int;
type CountSemaphore = unsafe extern "C" fn(*mut Opaque) -> c_int;

/// `NGX_READ_EVENT` on Linux: `EPOLLIN | EPOLLRDHUP`, with every event module.
const READ_EVENT: isize = 0x2001;

/// The kind of an nginx process, from the value of `ngx_process`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// The master, before or after it forks, or the single process of an nginx without a master.
    Head,
    /// A worker, the privileged agent, or a cache's manager or loader.
    Forked,
}

/// `NGX_PROCESS_WORKER`. `NGX_PROCESS_HELPER`, which is 4, is forked as well.
const PROCESS_WORKER: usize = 3;

pub(super) struct Symbols {
    process: &'static AtomicUsize,
    exiting: &'static AtomicUsize,
    quit: &'static AtomicI32,
    terminate: &'static AtomicI32,
    #[cfg(feature = "luajit")]
    pub(super) ends: Option<EndSymbols>,
    #[cfg(feature = "luajit")]
    pub(super) response: Option<ResponseSymbols>,
    pub(super) wake: Option<WakeSymbols>,
}

/// The symbols needed to wake a coroutine from another thread.
pub(super) struct WakeSymbols {
    pub(super) ends: EndSymbols,
    cycle: &'static AtomicPtr<Opaque>,
    add_channel_event: AddChannelEvent,
    post_semaphore: PostSemaphore,
    count_semaphore: CountSemaphore,
}

impl Symbols {
    /// The symbols of this process; `None` if it is not an nginx.
    pub(super) fn of_process() -> Option<&'static Self> {
        static SYMBOLS: OnceBox<Option<Symbols>> = OnceBox::new();
        SYMBOLS.get_or_init(|| Box::new(Self::look_up())).as_ref()
    }

    fn look_up() -> Option<Self> {
        // SAFETY: nginx declares these as static variables of type `ngx_uint_t` and `sig_atomic_t` (an
        // `int`), aligned and valid for the life of the process. nginx writes each with one store.
        unsafe {
            Some(Self {
                process: AtomicUsize::from_ptr(address(c"ngx_process")?.cast().as_ptr()),
                exiting: AtomicUsize::from_ptr(address(c"ngx_exiting")?.cast().as_ptr()),
                quit: AtomicI32::from_ptr(address(c"ngx_quit")?.cast().as_ptr()),
                terminate: AtomicI32::from_ptr(address(c"ngx_terminate")?.cast().as_ptr()),
                #[cfg(feature = "luajit")]
                ends: EndSymbols::look_up(),
                #[cfg(feature = "luajit")]
                response: ResponseSymbols::look_up(),
                wake: WakeSymbols::look_up(),
            })
        }
    }

    /// Whether this process has been told to exit.
    pub(super) fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Relaxed) != 0
            || self.quit.load(Ordering::Relaxed) != 0
            || self.terminate.load(Ordering::Relaxed) != 0
    }

    pub(super) fn role(&self) -> ProcessRole {
        if self.process.load(Ordering::Relaxed) >= PROCESS_WORKER {
            ProcessRole::Forked
        } else {
            ProcessRole::Head
        }
    }
}

impl WakeSymbols {
    fn look_up() -> Option<Self> {
        // SAFETY: nginx declares `volatile ngx_cycle_t *ngx_cycle` and, in os/unix/ngx_channel.h,
        // `ngx_add_channel_event` with this type. The Lua module declares the two semaphore functions
        // with these types for LuaJIT's FFI.
        unsafe {
            Some(Self {
                ends: EndSymbols::look_up()?,
                cycle: AtomicPtr::from_ptr(address(c"ngx_cycle")?.cast().as_ptr()),
                add_channel_event: std::mem::transmute::<NonNull<Opaque>, AddChannelEvent>(
                    address(c"ngx_add_channel_event")?,
                ),
                post_semaphore: std::mem::transmute::<NonNull<Opaque>, PostSemaphore>(address(
                    c"ngx_http_lua_ffi_sema_post",
                )?),
                count_semaphore: std::mem::transmute::<NonNull<Opaque>, CountSemaphore>(address(
                    c"ngx_http_lua_ffi_sema_count",
                )?),
            })
        }
    }

    /// The address of nginx's running cycle. It changes when an nginx without a master is reloaded.
    pub(super) fn cycle(&self) -> usize {
        self.cycle.load(Ordering::Relaxed).addr()
    }

    /// Makes nginx call `handler` in its event loop while `descriptor` is readable; false if nginx has no
    /// connection slot left. Registered as a channel (like the one to the master), so that an exiting
    /// worker neither waits for it nor logs it as an open connection.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop, while it runs. `descriptor` stays open for
    /// the life of the process, or of the cycle.
    pub(super) unsafe fn add_event(&self, descriptor: c_int, handler: EventHandler) -> bool {
        let cycle = self.cycle.load(Ordering::Relaxed);
        // SAFETY: the caller guarantees thread and descriptor; `cycle` is the running one.
        unsafe { (self.add_channel_event)(cycle, descriptor, READ_EVENT, handler) == 0 }
    }

    /// Posts the semaphore: the coroutine that waits for it runs in this iteration of the event loop.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop; the semaphore has not been freed.
    pub(super) unsafe fn post(&self, semaphore: Semaphore) {
        // SAFETY: the caller guarantees the thread and a live semaphore.
        unsafe { (self.post_semaphore)(semaphore.0.as_ptr(), 1) };
    }

    /// Whether a coroutine waits for the semaphore, which has not been posted.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop; the semaphore has not been freed.
    pub(super) unsafe fn is_awaited(&self, semaphore: Semaphore) -> bool {
        // SAFETY: the caller guarantees the thread and a live semaphore. The function returns the number
        // of unused posts minus the number of waiting coroutines.
        unsafe { (self.count_semaphore)(semaphore.0.as_ptr()) < 0 }
    }
}

impl Semaphore {
    /// The semaphore at an address that the glue got from LuaJIT's FFI.
    pub(super) fn at(address: usize) -> Option<Self> {
        at(address).map(Self)
    }
}

// SAFETY: it is only an address. `post` and `is_awaited`, which pass it on, run on nginx's thread.
unsafe impl Send for Semaphore {}
