//! Natives of the result class.

use super::own_or_shared::OwnOrShared;
use super::raw::{Answer, ArgView, Args, Item, Items, cut, memory_native};
use crate::engine::log::{Level, Line};
use crate::engine::process::current;
use crate::engine::request::result::{BackendResult, Bytes};
use crate::sys::cancellation::uncancelled;

/// The fields of a result. The glue refers to a field by its position here, from 1.
const FIELD_NAMES: &[&str] = &[
    "authenticated",
    "user_found",
    "account_field",
    "totp_secret_field",
    "totp_recovery_field",
    "unique_user_id_field",
    "display_name_field",
    "attributes",
    "groups",
    "group_dns",
    "webauthn_credentials",
];

/// The fields in the order of [`FIELD_NAMES`].
const FIELDS: [Field; FIELD_NAMES.len()] = [
    Field::Authenticated,
    Field::UserFound,
    Field::Account,
    Field::TotpSecret,
    Field::TotpRecovery,
    Field::UniqueUserId,
    Field::DisplayName,
    Field::Attributes,
    Field::Groups,
    Field::GroupDns,
    Field::WebauthnCredentials,
];

#[derive(Clone, Copy)]
pub(super) enum Field {
    Authenticated,
    UserFound,
    Account,
    TotpSecret,
    TotpRecovery,
    UniqueUserId,
    DisplayName,
    Attributes,
    Groups,
    GroupDns,
    WebauthnCredentials,
}

pub(super) const NATIVES: Items = &[
    ("result_new", memory_native!(new)),
    ("result_set", memory_native!(set)),
    ("result_get", memory_native!(get)),
    ("result_fields", Item::Texts(FIELD_NAMES)),
];

/// The field with this number, its position in `result_fields` from 1.
pub(super) fn field_at(number: usize) -> Option<Field> {
    FIELDS.get(number.checked_sub(1)?).copied()
}

/// The field whose number is argument 2.
fn field(args: &Args) -> Option<Field> {
    match args.view(2) {
        ArgView::Integer(number) => field_at(usize::try_from(number).ok()?),
        ArgView::Float(number) => field_at(number as usize),
        _ => None,
    }
}

impl Field {
    /// Sets a boolean field; false if this field is not a boolean.
    pub(super) fn set_flag(self, result: &OwnOrShared<BackendResult>, value: bool) -> bool {
        result.with(|r| {
            let place = match self {
                Self::Authenticated => &mut r.authenticated,
                Self::UserFound => &mut r.user_found,
                _ => return false,
            };
            *place = value;
            true
        })
    }

    /// Sets a string field; false if this field is not a string.
    pub(super) fn set_text(self, result: &OwnOrShared<BackendResult>, value: &[u8]) -> bool {
        result.with(|r| {
            let place = match self {
                Self::Account => &mut r.account_field,
                Self::TotpSecret => &mut r.totp_secret_field,
                Self::TotpRecovery => &mut r.totp_recovery_field,
                Self::UniqueUserId => &mut r.unique_user_id_field,
                Self::DisplayName => &mut r.display_name_field,
                _ => return false,
            };
            *place = Some(value.into());
            true
        })
    }
}

/// Logs that an attribute was left out. That is not an error: a login must not fail because of it.
pub(super) fn log_left_out(name: &[u8]) {
    let line = || {
        let (start, rest) = cut(name);
        let shown = format!("{}{rest}", String::from_utf8_lossy(start));
        Line::new(Level::Warning, "attribute_left_out")
            .quoted("attribute", &shown)
            .quoted("reason", "its value is a table in a table")
    };
    // The natives that call this work on memory alone but for this.
    uncancelled(|| current().log_seldom(line));
}

/// `result_new()` → result
fn new(_: &Args) -> Answer {
    Answer::NewResult
}

/// `result_get(result, field)` → value, or nil, true if `result` is no result
fn get(args: &Args) -> Answer {
    let (Some(result), Some(field)) = (args.result(1), field(args)) else {
        return Answer::BadSelf;
    };
    let text = |text: &Option<Bytes>| text.clone().map_or(Answer::Nil, Answer::Bytes);
    result.with(|r| match field {
        Field::Authenticated => Answer::Bool(r.authenticated),
        Field::UserFound => Answer::Bool(r.user_found),
        Field::Account => text(&r.account_field),
        Field::TotpSecret => text(&r.totp_secret_field),
        Field::TotpRecovery => text(&r.totp_recovery_field),
        Field::UniqueUserId => text(&r.unique_user_id_field),
        Field::DisplayName => text(&r.display_name_field),
        Field::Attributes => Answer::Attributes(r.attributes.clone()),
        Field::Groups => Answer::List(r.groups.clone()),
        Field::GroupDns => Answer::List(r.group_dns.clone()),
        Field::WebauthnCredentials => Answer::List(r.webauthn_credentials.clone()),
    })
}

/// `result_set(result, field, value)` → nothing, or why the value is refused, or nil, true if `result`
/// is no result
fn set(args: &Args) -> Answer {
    let (Some(result), Some(field)) = (args.result(1), field(args)) else {
        return Answer::BadSelf;
    };
    match assign(args, result, field) {
        Ok(()) => Answer::Nothing,
        Err(why) => Answer::Text(why),
    }
}

fn assign(args: &Args, result: &OwnOrShared<BackendResult>, field: Field) -> Result<(), String> {
    match field {
        Field::Authenticated | Field::UserFound => match args.view(3) {
            ArgView::Bool(value) => {
                field.set_flag(result, value);
                Ok(())
            }
            other => Err(format!("boolean expected, got {}", other.type_name())),
        },
        Field::Account
        | Field::TotpSecret
        | Field::TotpRecovery
        | Field::UniqueUserId
        | Field::DisplayName => match args.view(3) {
            ArgView::Bytes(bytes) => {
                field.set_text(result, bytes);
                Ok(())
            }
            other => Err(format!("string expected, got {}", other.type_name())),
        },
        Field::Attributes => args
            .attributes(3, log_left_out)
            .map(|v| result.with(|r| r.attributes = v)),
        Field::Groups => args.strings(3).map(|v| result.with(|r| r.groups = v)),
        Field::GroupDns => args.strings(3).map(|v| result.with(|r| r.group_dns = v)),
        Field::WebauthnCredentials => args
            .strings(3)
            .map(|v| result.with(|r| r.webauthn_credentials = v)),
    }
}
