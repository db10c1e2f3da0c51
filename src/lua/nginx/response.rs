//! The response of an nginx request: functions of nginx's Lua module that set a header without a Lua
//! string, and tell the phase of the request and whether its headers were sent.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use super::pointers::{Opaque, Request, address};

/// `ngx_http_lua_ffi_set_resp_header`: request, name and length, whether the header is cleared, value and
/// length, several values and their number (unused here), whether an earlier value is replaced, and where
/// to write the address of an error message.
type SetHeader = unsafe extern "C" fn(
    *mut Opaque,
    *const u8,
    usize,
    c_int,
    *const u8,
    usize,
    *const c_void,
    usize,
    c_int,
    *mut *const c_char,
) -> c_int;

/// `ngx_http_lua_ffi_headers_sent`: 0 while the response headers are not sent, negative for a request
/// without a response.
type HeadersSent = unsafe extern "C" fn(*mut Opaque) -> c_int;

/// `ngx_http_lua_ffi_get_phase`: request, and where to write the address of an error message. Returns the
/// bit of the phase, or a negative number outside of all phases.
type GetPhase = unsafe extern "C" fn(*mut Opaque, *mut *const c_char) -> c_int;

/// The versions of the Lua module, as `ngx.config.ngx_lua_version` gives them, whose functions have these
/// types and whose phases have these bits. The module may change both in any version, and a call with
/// another type would corrupt the worker's memory. With a version outside, the glue sets headers through
/// `ngx.header`, which is slower.
pub(super) const FIRST_VERSION: c_int = 10_015;
pub(super) const LAST_VERSION: c_int = 10_032;

/// The phases in which a request has a response, and nginx reports its end: `set`, `rewrite`, `access`,
/// `content`, `header_filter`, `balancer` and `server_rewrite`.
const BEGINS: c_int = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0020 | 0x0200 | 0x8000;

#[derive(Clone, Copy)]
pub(super) struct ResponseSymbols {
    set_header: SetHeader,
    headers_sent: HeadersSent,
    get_phase: GetPhase,
}

impl ResponseSymbols {
    pub(super) fn look_up() -> Option<Self> {
        // SAFETY: the Lua module declares the functions with these types for LuaJIT's FFI, in the versions
        // from `FIRST_VERSION` to `LAST_VERSION`. The glue uses them in no other version.
        unsafe {
            Some(Self {
                set_header: std::mem::transmute::<NonNull<Opaque>, SetHeader>(address(
                    c"ngx_http_lua_ffi_set_resp_header",
                )?),
                headers_sent: std::mem::transmute::<NonNull<Opaque>, HeadersSent>(address(
                    c"ngx_http_lua_ffi_headers_sent",
                )?),
                get_phase: std::mem::transmute::<NonNull<Opaque>, GetPhase>(address(
                    c"ngx_http_lua_ffi_get_phase",
                )?),
            })
        }
    }

    /// Whether the response headers can still be set.
    ///
    /// # Safety
    ///
    /// The version of the Lua module is a known one, and `request` is the current request of nginx's thread.
    pub(super) unsafe fn is_open(&self, request: Request) -> bool {
        // SAFETY: with a known version the function has this type, and nginx keeps the current request
        // during the call.
        unsafe { (self.headers_sent)(request.0.as_ptr()) == 0 }
    }

    /// Whether a request may begin a context in the phase that it is in.
    ///
    /// # Safety
    ///
    /// As for [`Self::is_open`].
    pub(super) unsafe fn may_begin(&self, request: Request) -> bool {
        let mut problem = ptr::null();
        // SAFETY: with a known version the function has this type, and nginx keeps the current request
        // during the call. The function writes at most one pointer, to `problem`.
        let phase = unsafe { (self.get_phase)(request.0.as_ptr(), &raw mut problem) };
        phase > 0 && phase & BEGINS == phase
    }

    /// Sets a header, or clears it if there is no value; false if nginx refused.
    ///
    /// # Safety
    ///
    /// As for [`Self::is_open`].
    // Not inlined: it has several callers, and copies of it would take room in the instruction cache,
    // which is cold when a request gets here.
    #[inline(never)]
    pub(super) unsafe fn set(&self, request: Request, name: &str, value: Option<&[u8]>) -> bool {
        const OVERRIDE: c_int = 1;
        // `NGX_OK`: it was set. `NGX_DECLINED`: nginx sets a header of this name itself.
        const DONE: c_int = 0;
        const DECLINED: c_int = -5;
        let bytes = value.unwrap_or_default();
        let mut problem = ptr::null();
        // SAFETY: the caller guarantees the type of the function and the request. It copies what it keeps,
        // and calls no Lua; `problem` outlives the call.
        let outcome = unsafe {
            (self.set_header)(
                request.0.as_ptr(),
                name.as_ptr(),
                name.len(),
                value.is_none().into(),
                bytes.as_ptr(),
                bytes.len(),
                ptr::null(),
                0,
                OVERRIDE,
                &raw mut problem,
            )
        };
        matches!(outcome, DONE | DECLINED)
    }
}
