//! A check of one server that the caller waits for.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use super::context::port;
use super::status::{Failure, Status, exported};
use super::text::{self, CheckSetting};
use crate::engine::config::Value;
use crate::engine::process::current;
use crate::engine::target::Target;

/// How much longer than the sum of its own deadlines a check may take: it may have to wait until
/// checks before it have completed.
const SLACK: Duration = Duration::from_secs(10);

/// Keys that are refused in `settings`, because the function has parameters for them.
const PARAMETERS: [&str; 4] = ["host", "ip", "ip_address", "port"];

/// A setting as an entry of a configuration. Its value is text whatever type the key has; as
/// [`Value::Env`] it is converted to that type, as the value of an environment variable is.
///
/// # Safety
///
/// The views of `setting` are null or have their number of bytes.
unsafe fn entry(index: usize, setting: &CheckSetting) -> Result<(String, Value), Failure> {
    let part = |name: &str| format!("settings[{index}].{name}");
    let utf8 = |name: &str, bytes| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| Failure::invalid(format!("{}: text in UTF-8 expected", part(name))))
    };
    // SAFETY: both views are null or have their number of bytes, by this function's contract.
    let (key, value) = unsafe {
        (
            setting.key.bytes(&part("key"))?,
            setting.value.bytes(&part("value"))?,
        )
    };
    let key = utf8("key", key)?;
    if PARAMETERS.contains(&key.as_str()) {
        return Err(Failure::invalid(format!(
            "{}: host and port are parameters of their own, got {key}",
            part("key")
        )));
    }
    let value = Value::Env {
        text: utf8("value", value)?,
        template: key.clone(),
    };
    Ok((key, value))
}

/// The longest time that a check of `target` can take.
fn longest(target: &Target) -> Duration {
    [
        target.connect_timeout,
        target.tls_timeout,
        target.deep_timeout,
    ]
    .into_iter()
    .fold(SLACK, Duration::saturating_add)
}

exported!(
    fn nauthilus_backend_check(
        host: *const c_char,
        host_size: usize,
        port: u32,
        settings: *const CheckSetting,
        count: usize,
    ) -> Done {
        let host = std::str::from_utf8(text::bytes("host", host, host_size)?)
            .map_err(|_| Failure::invalid("host: text in UTF-8 expected"))?;
        let port = self::port(port)?;
        let mut entries = vec![
            ("host".to_owned(), Value::Str(host.to_owned())),
            ("port".to_owned(), Value::Int(port.into())),
        ];
        for (index, setting) in text::elements("settings", settings, count)?
            .iter()
            .enumerate()
        {
            let (key, value) = entry(index, setting)?;
            if entries.iter().any(|(other, _)| *other == key) {
                return Err(Failure::invalid(format!("settings: {key} is given twice")));
            }
            entries.push((key, value));
        }
        let process = current();
        let target = process
            .target_for_check(&Value::Map(entries), &[])
            .map_err(Failure::invalid)?;
        let at_most = longest(&target);
        match process.check(Arc::new(target), true).wait(Some(at_most)) {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(Failure::new(Status::CheckFailed, reason)),
            None => Err(Failure::new(
                Status::Timeout,
                format!("no answer within {} s", at_most.as_secs()),
            )),
        }
    }
);
