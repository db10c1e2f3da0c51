//! Which server a user belongs on.

use std::ffi::c_char;
use std::sync::OnceLock;

use super::handle;
use super::servers::{Server, ServerTexts, active, configured, not_configured, write_sized};
use super::status::{Failure, Status, guard, out};
use super::text::{self, CheckSetting, OwnedString, View, terminated};
use crate::engine::process::Start;
use crate::engine::routing::{Candidate, Filter, NoRoute};
use crate::sys::event::EventFd;

/// `nauthilus_backend_routed`: a user's route. Without a store it is done as soon as it is started.
struct RoutedHandle {
    answer: Result<Answer, NoRoute>,
    /// Readable, since the route is done. Made when it is first asked for.
    event: OnceLock<EventFd>,
}

struct Answer {
    server: ServerTexts,
    how: Box<[u8]>,
    node: Box<[u8]>,
    pool: Box<[u8]>,
    empty: Box<[u8]>,
    degraded: bool,
}

/// `nauthilus_backend_route_detail`. New fields are added at the end.
#[derive(Clone, Copy)]
#[repr(C)]
struct RouteDetail {
    how: View,
    node: View,
    pool: View,
    from: View,
    reason: View,
    by: View,
    since: i64,
    until: i64,
    degraded: i32,
}

/// The size of the struct in its first version, in bytes.
const FIRST_DETAIL: usize = std::mem::offset_of!(RouteDetail, degraded) + size_of::<i32>();

impl Answer {
    fn detail(&self) -> RouteDetail {
        let nothing = View::of(&self.empty);
        RouteDetail {
            how: View::of(&self.how),
            node: View::of(&self.node),
            pool: View::of(&self.pool),
            from: nothing,
            reason: nothing,
            by: nothing,
            since: 0,
            until: 0,
            degraded: self.degraded.into(),
        }
    }
}

fn no_route(why: NoRoute) -> Failure {
    Failure::new(Status::NoRoute, why.text())
}

fn no_store() -> Failure {
    Failure::new(Status::NoStore, "no store")
}

/// A filter from its keys and values.
///
/// # Errors
///
/// A key is unknown, or its value has the wrong type.
///
/// # Safety
///
/// `settings` is null or has `count` elements, whose views are null or have their sizes.
unsafe fn read_filter(settings: *const CheckSetting, count: usize) -> Result<Filter, Failure> {
    let mut filter = Filter::default();
    // SAFETY: by this function's contract.
    let settings = unsafe { text::elements("filter", settings, count)? };
    for (index, setting) in settings.iter().enumerate() {
        let name = format!("filter[{index}]");
        // SAFETY: both views are null or have their sizes, by this function's contract.
        let (key, value) = unsafe { (setting.key.bytes(&name)?, setting.value.bytes(&name)?) };
        let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else {
            return Err(Failure::invalid(format!("{name}: text in UTF-8 expected")));
        };
        filter
            .add_text(key, value)
            .map_err(|why| Failure::invalid(format!("{name}: {why}")))?;
    }
    Ok(filter)
}

/// Finds the route of a user. Never waits.
fn find(user: &[u8], filter: &Filter) -> Result<RoutedHandle, Failure> {
    let process = configured()?;
    let routes = process
        .routes(filter, Start::Allowed)
        .ok_or_else(not_configured)?;
    let answer = routes.route(user).and_then(|choice| {
        let server = routes.server(choice.target).ok_or(NoRoute::NoNode)?;
        let node = routes.node_of(choice).ok_or(NoRoute::NoNode)?;
        Ok(Answer {
            how: terminated(b"hash"),
            node: terminated(node.name.as_bytes()),
            pool: terminated(node.pool.as_bytes()),
            empty: terminated(b""),
            degraded: routes.is_degraded(),
            server: ServerTexts::new(server),
        })
    });
    Ok(RoutedHandle {
        answer,
        event: OnceLock::new(),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route(
    user: *const c_char,
    user_size: usize,
    filter: *const CheckSetting,
    count: usize,
    routed: *mut *mut RoutedHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `user` is null or has `user_size` bytes; `filter` is null or has `count` elements, whose
    // views are null or have their sizes; `routed` and `reason` are null or may be written (header).
    unsafe {
        guard(reason, || {
            out("routed", routed)?;
            let user = text::bytes("user", user, user_size)?;
            let found = find(user, &read_filter(filter, count)?)?;
            if let Err(why) = found.answer {
                return Err(no_route(why));
            }
            handle::give("routed", routed, found)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_start(
    user: *const c_char,
    user_size: usize,
    filter: *const CheckSetting,
    count: usize,
    routed: *mut *mut RoutedHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `user` is null or has `user_size` bytes; `filter` is null or has `count` elements, whose
    // views are null or have their sizes; `routed` and `reason` are null or may be written (header).
    unsafe {
        guard(reason, || {
            out("routed", routed)?;
            let user = text::bytes("user", user, user_size)?;
            let found = find(user, &read_filter(filter, count)?)?;
            handle::give("routed", routed, found)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_poll(
    routed: *const RoutedHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `routed` is null or a handle of ours with a reference left; `reason` is null or may be
    // written (header).
    unsafe {
        guard(reason, || {
            let routed = handle::get("routed", routed)?;
            routed.answer.as_ref().map_err(|why| no_route(*why))?;
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_fd(
    routed: *const RoutedHandle,
    fd: *mut i32,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `routed` is null or a handle of ours with a reference left; `fd` and `reason` are null or
    // may be written (header).
    unsafe {
        guard(reason, || {
            let routed = handle::get("routed", routed)?;
            let fd = out("fd", fd)?;
            let system = |reason: String| Failure::new(Status::System, reason);
            if routed.event.get().is_none() {
                let event = EventFd::new().map_err(|e| system(format!("no descriptor: {e}")))?;
                event.set();
                // Fails where another thread was first: then this event is closed again.
                let _ = routed.event.set(event);
            }
            let event = routed.event.get().filter(|event| event.is_ours());
            let event = event.ok_or_else(|| system("the host has closed the descriptor".into()))?;
            fd.write(event.descriptor());
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_server(
    routed: *const RoutedHandle,
    server: *mut Server,
    server_size: usize,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `routed` is null or a handle of ours with a reference left; `server` is null or has
    // `server_size` writable bytes; `reason` is null or may be written (header).
    unsafe {
        guard(reason, || {
            let routed = handle::get("routed", routed)?;
            let answer = routed.answer.as_ref().map_err(|why| no_route(*why))?;
            answer.server.write(server, server_size)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_detail_of(
    routed: *const RoutedHandle,
    detail: *mut RouteDetail,
    detail_size: usize,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `routed` is null or a handle of ours with a reference left; `detail` is null or has
    // `detail_size` writable bytes; `reason` is null or may be written (header).
    unsafe {
        guard(reason, || {
            let routed = handle::get("routed", routed)?;
            let answer = routed.answer.as_ref().map_err(|why| no_route(*why))?;
            write_sized("detail", answer.detail(), detail, detail_size, FIRST_DETAIL)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_retain(
    routed: *mut RoutedHandle,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `routed` is null or a handle of ours with a reference left; `reason` is null or may be
    // written (header).
    unsafe { guard(reason, || handle::retain("routed", routed)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_route_release(routed: *mut RoutedHandle) {
    // SAFETY: `routed` is null or a handle of ours with a reference left (header).
    unsafe { handle::release(routed) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_explain_route(
    user: *const c_char,
    user_size: usize,
    filter: *const CheckSetting,
    count: usize,
    json: *mut OwnedString,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `user` is null or has `user_size` bytes; `filter` is null or has `count` elements, whose
    // views are null or have their sizes; `json` and `reason` are null or may be written (header).
    unsafe {
        guard(reason, || {
            let json = out("json", json)?;
            let user = text::bytes("user", user, user_size)?;
            let explained = explain(user, &read_filter(filter, count)?)?;
            json.write(text::give(explained.to_string().as_bytes()));
            Ok(())
        })
    }
}

fn explain(user: &[u8], filter: &Filter) -> Result<serde_json::Value, Failure> {
    let active = active(&*configured()?, Start::Allowed)?;
    let (key, candidates) = active
        .candidates(user, filter)
        .ok_or_else(|| no_route(NoRoute::NoKey))?;
    let route = active.route(user, filter);
    let candidate = |candidate: &Candidate<'_>| {
        serde_json::json!({
            "node": &*candidate.node.name,
            "score": candidate.score,
            "usable": candidate.why.is_none(),
            "why": candidate.why.map(|why| why.text()),
        })
    };
    let found = route.as_ref().ok();
    Ok(serde_json::json!({
        "key": String::from_utf8_lossy(&key),
        "how": found.map(|_| "hash"),
        "node": found.map(|route| &*route.node.name),
        "degraded": found.map(|route| route.degraded),
        "reason": route.as_ref().err().map(|why| why.text()),
        "candidates": candidates.iter().map(candidate).collect::<Vec<_>>(),
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_touch_users(
    users: *const View,
    count: usize,
    node: *const c_char,
    node_size: usize,
    touched: *mut usize,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `users` is null or has `count` elements, which are null or have their sizes; `node` is
    // null or has `node_size` bytes; `touched` and `reason` are null or may be written (header).
    unsafe {
        guard(reason, || {
            text::list("users", users, count)?;
            text::bytes("node", node, node_size)?;
            out("touched", touched)?;
            Err(no_store())
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nauthilus_backend_move_user(
    user: *const c_char,
    user_size: usize,
    node: *const c_char,
    node_size: usize,
    options: *const CheckSetting,
    count: usize,
    reason: *mut OwnedString,
) -> Status {
    // SAFETY: `user` and `node` are null or have their sizes; `options` is null or has `count`
    // elements, whose views are null or have their sizes; `reason` is null or may be written (header).
    unsafe {
        guard(reason, || {
            text::bytes("user", user, user_size)?;
            text::bytes("node", node, node_size)?;
            text::elements("options", options, count)?;
            Err(no_store())
        })
    }
}
