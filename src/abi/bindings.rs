//! The functions with which hosts and operators change users' bindings in the store.

use std::ffi::c_char;
use std::sync::Arc;

use super::servers::{active, configured};
use super::status::{Failure, Status, exported, out};
use super::text::{self, CheckSetting, View};
use crate::engine::active::ActiveConfig;
use crate::engine::process::routed::UNAVAILABLE;
use crate::engine::process::store_call::{Author, NO_STORE, StoreCall, StoreDone, keys_of};
use crate::engine::process::{Start, current};
use crate::engine::routing::NoRoute;

/// The longest reason and author, in bytes: events and the store keep them.
const TEXT_MAX: usize = 100;

/// Calls the store and waits for its answer, for at most the store's timeout.
///
/// # Errors
///
/// There is no store, it does not know the node, or has not answered in time.
pub(super) fn call_store(
    active: &Arc<ActiveConfig>,
    call: StoreCall,
    author: Author,
) -> Result<StoreDone, Failure> {
    let (check, longest) = current()
        .start_store_call(active, call, author)
        .map_err(|why| {
            let is_missing = why == NO_STORE;
            let status = if is_missing {
                Status::NoStore
            } else {
                Status::NotFound
            };
            Failure::new(status, why)
        })?;
    check.wait(Some(longest));
    let unavailable = |why: String| Failure::new(Status::StoreUnavailable, why);
    match check.store_result() {
        Some(done) => done.map_err(unavailable),
        None => Err(unavailable(UNAVAILABLE.to_owned())),
    }
}

/// The configuration in force, if it has a store.
fn stored() -> Result<Arc<ActiveConfig>, Failure> {
    let active = active(&*configured()?, Start::Allowed)?;
    match active.config.cluster {
        Some(_) => Ok(active),
        None => Err(Failure::new(Status::NoStore, NO_STORE)),
    }
}

fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes)
        .map_err(|_| Failure::invalid(format!("{name}: text in UTF-8 expected")))
}

/// The options of `move_user`: why and by whom, and whether the user is pinned.
///
/// # Errors
///
/// A key is unknown, or its value is not of its form.
///
/// # Safety
///
/// `options` is null or has `count` elements, whose views are null or have their sizes.
unsafe fn read_options(
    options: *const CheckSetting,
    count: usize,
) -> Result<(Author, bool), Failure> {
    let (mut author, mut keep) = (Author::default(), false);
    // SAFETY: `options` is null or has `count` elements, by this function's contract.
    let options = unsafe { text::elements("options", options, count)? };
    for (index, option) in options.iter().enumerate() {
        let name = format!("options[{index}]");
        // SAFETY: both views are null or have their sizes, by this function's contract.
        let (key, value) = unsafe { (option.key.bytes(&name)?, option.value.bytes(&name)?) };
        let (key, value) = (utf8(&name, key)?, utf8(&name, value)?);
        let wrong = |expected: &str| Failure::invalid(format!("{name}: {expected} expected"));
        let is_text = value.len() <= TEXT_MAX && !value.chars().any(char::is_control);
        match key {
            "keep" => keep = value.parse().map_err(|_| wrong("keep: true or false"))?,
            "reason" | "by" if !is_text => {
                return Err(wrong(&format!(
                    "{key}: text of at most {TEXT_MAX} bytes without control characters"
                )));
            }
            "reason" => value.clone_into(&mut author.reason),
            "by" => value.clone_into(&mut author.by),
            other => {
                let got = format!("{name}: keep, reason or by expected, got {other:?}");
                return Err(Failure::invalid(got));
            }
        }
    }
    Ok((author, keep))
}

exported!(
    fn nauthilus_backend_touch_users(
        users: *const View,
        count: usize,
        node: *const c_char,
        node_size: usize,
        touched: *mut usize,
    ) -> Done {
        let users = text::list("users", users, count)?;
        let node = utf8("node", text::bytes("node", node, node_size)?)?;
        let touched = out("touched", touched)?;
        let active = stored()?;
        let call = StoreCall::Touch {
            keys: keys_of(&active, users.iter().map(|user| &user[..])),
            node: node.to_owned(),
        };
        if let StoreDone::Touched(count) = call_store(&active, call, Author::default())? {
            touched.write(usize::try_from(count).unwrap_or(usize::MAX));
        }
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_move_user(
        user: *const c_char,
        user_size: usize,
        node: *const c_char,
        node_size: usize,
        options: *const CheckSetting,
        count: usize,
    ) -> Done {
        let user = text::bytes("user", user, user_size)?;
        let node = utf8("node", text::bytes("node", node, node_size)?)?;
        let (author, keep) = read_options(options, count)?;
        let active = stored()?;
        let key = keys_of(&active, std::iter::once(user)).pop();
        let call = StoreCall::Move {
            key: key.ok_or_else(|| Failure::no_route(NoRoute::NoKey.text()))?,
            node: node.to_owned(),
            keep,
        };
        call_store(&active, call, author)?;
        Ok(())
    }
);
