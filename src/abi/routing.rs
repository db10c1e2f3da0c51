//! Which server a user belongs on.

use std::ffi::c_char;
use std::sync::{Arc, OnceLock};

use super::bindings::call_store;
use super::handle::{self, reference_counted};
use super::servers::{Server, ServerTexts, active, configured, write_sized};
use super::status::{Failure, Status, exported, out};
use super::text::{self, CheckSetting, OwnedString, View, terminated};
use crate::engine::active::ActiveConfig;
use crate::engine::process::check::Check;
use crate::engine::process::routed::{Routed, RoutedServer};
use crate::engine::process::store_call::{Author, StoreCall, StoreDone};
use crate::engine::process::{Start, current};
use crate::engine::routing::{Candidate, Filter, NoRoute};

/// `nauthilus_backend_routed`: a user's route. Dropping it cancels a route that has not completed.
struct RoutedHandle {
    check: Check,
    /// The route's result: empty until C first asks for it after the route has completed.
    answer: OnceLock<Result<Answer, String>>,
}

struct Answer {
    server: ServerTexts,
    routed: Routed,
    how: Box<[u8]>,
    node: Box<[u8]>,
    pool: Box<[u8]>,
    from: Box<[u8]>,
    reason: Box<[u8]>,
    by: Box<[u8]>,
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
    fn new((server, routed, pool): RoutedServer) -> Self {
        Self {
            server: ServerTexts::new(server),
            how: terminated(routed.how.as_bytes()),
            node: terminated(routed.node.as_bytes()),
            pool: terminated(pool.as_bytes()),
            from: terminated(routed.from.as_bytes()),
            reason: terminated(routed.reason.as_bytes()),
            by: terminated(routed.by.as_bytes()),
            routed,
        }
    }

    /// The detail as C gets it. Its views point into `self`.
    fn detail(&self) -> RouteDetail {
        let ms = |us: u64| i64::try_from(us / 1000).unwrap_or(i64::MAX);
        RouteDetail {
            how: View::of(&self.how),
            node: View::of(&self.node),
            pool: View::of(&self.pool),
            from: View::of(&self.from),
            reason: View::of(&self.reason),
            by: View::of(&self.by),
            since: ms(self.routed.since_us),
            until: ms(self.routed.until_us),
            degraded: self.routed.degraded.into(),
        }
    }
}

impl RoutedHandle {
    /// The result of the route.
    ///
    /// # Errors
    ///
    /// There is no server, or it is not known yet.
    fn answer(&self) -> Result<&Answer, Failure> {
        if self.answer.get().is_none()
            && let Some(found) = self.check.route_result()
        {
            // Fails if another thread has set it first. Both have the same result.
            let _ = self.answer.set(found.map(Answer::new));
        }
        match self.answer.get() {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(why)) => Err(Failure::no_route(why)),
            None => Err(Failure::new(Status::Pending, "the route is not done yet")),
        }
    }
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
    // SAFETY: `settings` is null or has `count` elements, by this function's contract.
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

/// Begins to route a user. Never waits.
fn begin(active: &Arc<ActiveConfig>, user: &[u8], filter: Filter) -> Result<RoutedHandle, Failure> {
    let check = current().start_route(active, user, filter);
    Ok(RoutedHandle {
        check: check.map_err(|why| Failure::no_route(&why))?,
        answer: OnceLock::new(),
    })
}

exported!(
    fn nauthilus_backend_route(
        user: *const c_char,
        user_size: usize,
        filter: *const CheckSetting,
        count: usize,
        routed: *mut *mut RoutedHandle,
    ) -> Done {
        out("routed", routed)?;
        let user = text::bytes("user", user, user_size)?;
        let filter = read_filter(filter, count)?;
        let active = active(&*configured()?, Start::Allowed)?;
        let begun = begin(&active, user, filter)?;
        if let Some(settings) = &active.config.cluster {
            begun.check.wait(Some(settings.timeout));
            if let Some(found) = begun.check.give_up_route() {
                // Cannot fail: no other thread has this handle yet.
                let _ = begun.answer.set(found.map(Answer::new));
            }
        }
        begun.answer()?;
        handle::give("routed", routed, begun)
    }
);

exported!(
    fn nauthilus_backend_route_start(
        user: *const c_char,
        user_size: usize,
        filter: *const CheckSetting,
        count: usize,
        routed: *mut *mut RoutedHandle,
    ) -> Done {
        out("routed", routed)?;
        let user = text::bytes("user", user, user_size)?;
        let filter = read_filter(filter, count)?;
        let active = active(&*configured()?, Start::Allowed)?;
        handle::give("routed", routed, begin(&active, user, filter)?)
    }
);

exported!(
    fn nauthilus_backend_route_poll(routed: *const RoutedHandle) -> Done {
        handle::get("routed", routed)?.answer()?;
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_route_fd(routed: *const RoutedHandle, fd: *mut i32) -> Done {
        let routed = handle::get("routed", routed)?;
        let fd = out("fd", fd)?;
        let descriptor = routed.check.descriptor();
        fd.write(
            descriptor.map_err(|e| Failure::new(Status::System, format!("no descriptor: {e}")))?,
        );
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_route_server(
        routed: *const RoutedHandle,
        server: *mut Server,
        server_size: usize,
    ) -> Done {
        let routed = handle::get("routed", routed)?;
        routed.answer()?.server.write(server, server_size)
    }
);

exported!(
    fn nauthilus_backend_route_detail_of(
        routed: *const RoutedHandle,
        detail: *mut RouteDetail,
        detail_size: usize,
    ) -> Done {
        let routed = handle::get("routed", routed)?;
        let value = routed.answer()?.detail();
        write_sized("detail", value, detail, detail_size, FIRST_DETAIL)
    }
);

reference_counted!(
    nauthilus_backend_route_retain,
    nauthilus_backend_route_release,
    routed: RoutedHandle
);

exported!(
    fn nauthilus_backend_explain_route(
        user: *const c_char,
        user_size: usize,
        filter: *const CheckSetting,
        count: usize,
        json: *mut OwnedString,
    ) -> Done {
        let json = out("json", json)?;
        let user = text::bytes("user", user, user_size)?;
        let explained = explain(user, &read_filter(filter, count)?)?;
        json.write(text::give(explained.to_string().as_bytes()));
        Ok(())
    }
);

/// The table that `explain_route` of Lua returns, as JSON.
fn explain(user: &[u8], filter: &Filter) -> Result<serde_json::Value, Failure> {
    let active = active(&*configured()?, Start::Allowed)?;
    let (key, candidates) = active
        .candidates(user, filter)
        .ok_or_else(|| Failure::no_route(NoRoute::NoKey.text()))?;
    let candidate = |candidate: &Candidate<'_>| {
        serde_json::json!({
            "node": &*candidate.node.name,
            "score": candidate.score,
            "usable": candidate.why.is_none(),
            "why": candidate.why.map(|why| why.text()),
        })
    };
    let mut explained = match &active.config.cluster {
        Some(_) => explain_binding(&active, &key, filter)?,
        None => explain_hash(&active, user, filter),
    };
    if let Some(fields) = explained.as_object_mut() {
        let candidates = candidates.iter().map(candidate).collect();
        fields.insert("key".into(), String::from_utf8_lossy(&key).into());
        fields.insert("candidates".into(), candidates);
    }
    Ok(explained)
}

fn explain_hash(active: &ActiveConfig, user: &[u8], filter: &Filter) -> serde_json::Value {
    let route = active.route(user, filter);
    let found = route.as_ref().ok();
    serde_json::json!({
        "how": found.map(|_| "hash"),
        "node": found.map(|route| &*route.node.name),
        "degraded": found.map(|route| route.degraded),
        "reason": route.as_ref().err().map(|why| why.text()),
    })
}

/// What a login would get now. If the store fails, that is the `problem` in the answer and not an error of the
/// call.
fn explain_binding(
    active: &Arc<ActiveConfig>,
    key: &[u8],
    filter: &Filter,
) -> Result<serde_json::Value, Failure> {
    let call = StoreCall::Explain {
        key: key.to_vec(),
        filter: filter.clone(),
    };
    let (record, why, problem) = match call_store(active, call, Author::default()) {
        Ok(StoreDone::Explained {
            record,
            reason,
            problem,
        }) => (record, reason, problem),
        Ok(_) => {
            return Err(Failure::new(
                Status::Internal,
                "the store gave the answer of another call",
            ));
        }
        Err(failure) if failure.is(Status::StoreUnavailable) => {
            let why = Some(failure.reason().to_owned());
            (Routed::default(), why.clone(), why)
        }
        Err(failure) => return Err(failure),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let seconds = |us: u64| (us > 0).then_some(us as f64 / 1e6);
    Ok(serde_json::json!({
        "how": given(record.how),
        "node": given(&record.node),
        "from": given(&record.from),
        "since": seconds(record.since_us),
        "until": seconds(record.until_us),
        "by": given(&record.by),
        "degraded": why.is_none().then_some(record.degraded),
        "reason": why.or_else(|| given(&record.reason)),
        "problem": problem,
    }))
}
