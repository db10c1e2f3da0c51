//! The functions for request contexts.

use std::ffi::c_char;

use super::handle::{self, ContextHandle, ResultHandle, reference_counted};
use super::result::{beyond, item};
use super::status::{Failure, Status, exported, out};
use super::text::{self, OwnedString, View};
use crate::engine::process::{count_selection, current};
use crate::engine::request::context::SharedContext;
use crate::engine::request::headers::RefusedAttribute;
use crate::engine::request::result::SharedResult;
use crate::engine::request::server_address::ServerAddress;

fn refused(attribute: RefusedAttribute) -> Failure {
    Failure::new(Status::Refused, attribute.to_string())
}

/// Converts a port.
///
/// # Errors
///
/// `port` is not within 1..=65535.
pub(super) fn port(port: u32) -> Result<u16, Failure> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Failure::invalid(format!("port: integer 1..65535 expected, got {port}")))
}

exported!(
    fn nauthilus_backend_context_new(context: *mut *mut ContextHandle) -> Done {
        handle::give("context", context, ContextHandle(SharedContext::default()))
    }
);

reference_counted!(
    nauthilus_backend_context_retain,
    nauthilus_backend_context_release,
    context: ContextHandle
);

exported!(
    fn nauthilus_backend_context_set_base(
        context: *mut ContextHandle,
        result: *const ResultHandle,
    ) -> Done {
        let context = handle::get("context", context)?;
        // A copy is taken under the result's lock before the context is locked: the two locks
        // are never held together, so their order cannot cause a deadlock.
        let base = handle::get("result", result)?.0.snapshot();
        context.0.with(|c| c.set_base(base)).map_err(refused)
    }
);

exported!(
    fn nauthilus_backend_context_apply(
        context: *mut ContextHandle,
        result: *const ResultHandle,
    ) -> Done {
        let context = handle::get("context", context)?;
        let result = handle::get("result", result)?.0.snapshot();
        context.0.with(|c| c.apply(&result)).map_err(refused)
    }
);

exported!(
    fn nauthilus_backend_context_remove(
        context: *mut ContextHandle,
        names: *const View,
        count: usize,
    ) -> Done {
        let context = handle::get("context", context)?;
        let names = text::list("names", names, count)?;
        context.0.with(|c| c.remove(names));
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_removed_count(
        context: *const ContextHandle,
        count: *mut usize,
    ) -> Done {
        let context = handle::get("context", context)?;
        out("count", count)?.write(context.0.with(|c| c.removed().len()));
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_removed_at(
        context: *const ContextHandle,
        index: usize,
        name: *mut OwnedString,
    ) -> Done {
        let context = handle::get("context", context)?;
        let name = out("name", name)?;
        name.write(
            context
                .0
                .with(|c| Ok(text::give(item(c.removed(), index)?)))?,
        );
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_select(
        context: *mut ContextHandle,
        ip: *const c_char,
        ip_size: usize,
        port: u32,
    ) -> Done {
        let context = handle::get("context", context)?;
        let given = text::bytes("ip", ip, ip_size)?;
        let port = self::port(port)?;
        match ServerAddress::parse(given) {
            Ok(ServerAddress::Literal(ip)) => context.0.with(|c| c.select(ip, port)),
            Ok(ServerAddress::Name(name)) => {
                let address = current().current_ip_of(name, port).map(|ip| ip.to_string());
                let chosen = address.as_deref().unwrap_or(name);
                context.0.with(|c| c.select(chosen, port));
            }
            Err(expected) => {
                return Err(Failure::new(Status::Refused, format!("ip: {expected}")));
            }
        }
        count_selection();
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_selected(
        context: *const ContextHandle,
        ip: *mut OwnedString,
        port: *mut u32,
    ) -> Done {
        let context = handle::get("context", context)?;
        let (ip, port) = (out("ip", ip)?, out("port", port)?);
        let Some(selection) = context.0.with(|c| c.selected().cloned()) else {
            return Err(Failure::new(Status::NotFound, "no server is selected"));
        };
        ip.write(text::give(&selection.ip));
        port.write(selection.port.into());
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_header_count(
        context: *const ContextHandle,
        count: *mut usize,
    ) -> Done {
        let context = handle::get("context", context)?;
        out("count", count)?.write(context.0.with(|c| c.headers().len()));
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_header_at(
        context: *const ContextHandle,
        index: usize,
        name: *mut OwnedString,
        value: *mut OwnedString,
    ) -> Done {
        let context = handle::get("context", context)?;
        let (name, value) = (out("name", name)?, out("value", value)?);
        let (mut at, mut found) = (0, None);
        context.0.with(|c| {
            c.headers().for_each(|name, value| {
                if at == index {
                    found = Some((text::give(name.as_bytes()), text::give(value)));
                }
                at += 1;
            });
        });
        let (its_name, its_value) = found.ok_or_else(|| beyond(index, at))?;
        name.write(its_name);
        value.write(its_value);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_context_result(
        context: *const ContextHandle,
        result: *mut *mut ResultHandle,
    ) -> Done {
        let context = handle::get("context", context)?;
        let current = context.0.with(|c| c.current_result());
        handle::give("result", result, ResultHandle(SharedResult::new(current)))
    }
);

exported!(
    fn nauthilus_backend_context_reset(context: *mut ContextHandle) -> Done {
        handle::get("context", context)?.0.with(|c| c.reset());
        Ok(())
    }
);
