//! Natives of the result class.

use mlua::prelude::*;

use super::raw::{Answer, Args, Natives, View, native};
use crate::engine::result::{Bytes, SharedResult};

/// The fields of a result as the glue names and numbers them.
const FIELDS: &[(&str, Field)] = &[
    ("authenticated", Field::Authenticated),
    ("user_found", Field::UserFound),
    ("account_field", Field::Account),
    ("totp_secret_field", Field::TotpSecret),
    ("totp_recovery_field", Field::TotpRecovery),
    ("unique_user_id_field", Field::UniqueUserId),
    ("display_name_field", Field::DisplayName),
    ("attributes", Field::Attributes),
    ("groups", Field::Groups),
    ("group_dns", Field::GroupDns),
    ("webauthn_credentials", Field::WebauthnCredentials),
];

#[derive(Clone, Copy)]
enum Field {
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

pub(super) fn register(natives: &Natives) -> LuaResult<()> {
    natives.add("result_new", native!(new))?;
    natives.add("result_set", native!(set))?;
    natives.add("result_get", native!(get))?;
    let names = FIELDS.iter().map(|(name, _)| *name);
    natives
        .table()
        .raw_set("result_fields", names.collect::<Vec<_>>())
}

/// The field whose number, its place in `result_fields`, is argument 2.
fn field(args: &Args) -> Option<Field> {
    let number = match args.view(2) {
        View::Integer(number) => usize::try_from(number).ok()?,
        View::Float(number) => number as usize,
        _ => return None,
    };
    let (_, field) = FIELDS.get(number.checked_sub(1)?)?;
    Some(*field)
}

/// `result_new()` → result
fn new(_: &Args) -> Answer {
    Answer::Result(SharedResult::default())
}

/// `result_get(result, field)` → value, or nil, true where `result` is none
fn get(args: &Args) -> Answer {
    let (Some(result), Some(field)) = (args.result(1), field(args)) else {
        return Answer::BadSelf;
    };
    let text = |text: &Option<Bytes>| text.clone().map_or(Answer::Nil, Answer::Bytes);
    result.read(|r| match field {
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

/// `result_set(result, field, value)` → nothing, or why the value is refused, or nil, true
/// where `result` is none
fn set(args: &Args) -> Answer {
    let (Some(result), Some(field)) = (args.result(1), field(args)) else {
        return Answer::BadSelf;
    };
    match assign(args, result, field) {
        Ok(()) => Answer::Nothing,
        Err(why) => Answer::Text(why),
    }
}

fn assign(args: &Args, result: &SharedResult, field: Field) -> Result<(), String> {
    let flag = || match args.view(3) {
        View::Bool(value) => Ok(value),
        other => Err(format!("boolean expected, got {}", other.type_name())),
    };
    let text = || match args.view(3) {
        View::Bytes(bytes) => Ok(Some(Bytes::from(bytes))),
        other => Err(format!("string expected, got {}", other.type_name())),
    };
    match field {
        Field::Authenticated => flag().map(|v| result.change(|r| r.authenticated = v)),
        Field::UserFound => flag().map(|v| result.change(|r| r.user_found = v)),
        Field::Account => text().map(|v| result.change(|r| r.account_field = v)),
        Field::TotpSecret => text().map(|v| result.change(|r| r.totp_secret_field = v)),
        Field::TotpRecovery => text().map(|v| result.change(|r| r.totp_recovery_field = v)),
        Field::UniqueUserId => text().map(|v| result.change(|r| r.unique_user_id_field = v)),
        Field::DisplayName => text().map(|v| result.change(|r| r.display_name_field = v)),
        Field::Attributes => args
            .attributes(3)
            .map(|v| result.change(|r| r.attributes = v)),
        Field::Groups => args.strings(3).map(|v| result.change(|r| r.groups = v)),
        Field::GroupDns => args.strings(3).map(|v| result.change(|r| r.group_dns = v)),
        Field::WebauthnCredentials => args
            .strings(3)
            .map(|v| result.change(|r| r.webauthn_credentials = v)),
    }
}
