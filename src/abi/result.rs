//! The functions for the fields of a result. Those for attributes are in `attribute.rs`.

use std::ffi::c_char;

use super::handle::{self, ResultHandle, reference_counted};
use super::status::{Failure, Status, exported, out};
use super::text::{self, OwnedString, View};
use crate::engine::request::result::{Attributes, BackendResult, Bytes, SharedResult};

/// A field that C passes in: it may be any number.
type FieldCode = i32;

/// `nauthilus_backend_field`.
#[expect(clippy::enum_variant_names, reason = "the fields' own names")]
#[derive(Clone, Copy)]
#[repr(i32)]
enum Field {
    Authenticated = 1,
    UserFound = 2,
    AccountField = 3,
    TotpSecretField = 4,
    TotpRecoveryField = 5,
    UniqueUserIdField = 6,
    DisplayNameField = 7,
    Attributes = 8,
    Groups = 9,
    GroupDns = 10,
    WebauthnCredentials = 11,
}

const FIELDS: [Field; 11] = [
    Field::Authenticated,
    Field::UserFound,
    Field::AccountField,
    Field::TotpSecretField,
    Field::TotpRecoveryField,
    Field::UniqueUserIdField,
    Field::DisplayNameField,
    Field::Attributes,
    Field::Groups,
    Field::GroupDns,
    Field::WebauthnCredentials,
];

/// A reference to a field of a result, by the kind of its value.
enum Place<'a> {
    Flag(&'a mut bool),
    Text(&'a mut Option<Bytes>),
    List(&'a mut Vec<Bytes>),
    Attributes(&'a mut Attributes),
}

impl<'a> Place<'a> {
    fn flag(self) -> Result<&'a mut bool, Failure> {
        match self {
            Self::Flag(flag) => Ok(flag),
            other => Err(other.wrong_kind("a flag")),
        }
    }

    fn text(self) -> Result<&'a mut Option<Bytes>, Failure> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(other.wrong_kind("a text")),
        }
    }

    fn list(self) -> Result<&'a mut Vec<Bytes>, Failure> {
        match self {
            Self::List(list) => Ok(list),
            other => Err(other.wrong_kind("a list")),
        }
    }

    fn wrong_kind(&self, wanted: &str) -> Failure {
        let kind = match self {
            Self::Flag(_) => "a flag",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Attributes(_) => "the attributes",
        };
        Failure::invalid(format!("field: one that is {wanted} expected, got {kind}"))
    }
}

fn place(result: &mut BackendResult, field: Field) -> Place<'_> {
    match field {
        Field::Authenticated => Place::Flag(&mut result.authenticated),
        Field::UserFound => Place::Flag(&mut result.user_found),
        Field::AccountField => Place::Text(&mut result.account_field),
        Field::TotpSecretField => Place::Text(&mut result.totp_secret_field),
        Field::TotpRecoveryField => Place::Text(&mut result.totp_recovery_field),
        Field::UniqueUserIdField => Place::Text(&mut result.unique_user_id_field),
        Field::DisplayNameField => Place::Text(&mut result.display_name_field),
        Field::Attributes => Place::Attributes(&mut result.attributes),
        Field::Groups => Place::List(&mut result.groups),
        Field::GroupDns => Place::List(&mut result.group_dns),
        Field::WebauthnCredentials => Place::List(&mut result.webauthn_credentials),
    }
}

/// Runs `work` on a field of the result, under the result's lock.
///
/// # Safety
///
/// `result` is null or a handle of ours with a reference left.
unsafe fn at<T>(
    result: *const ResultHandle,
    field: FieldCode,
    work: impl FnOnce(Place<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // SAFETY: null or a handle with a reference left, by this function's contract.
    let result = unsafe { handle::get("result", result) }?;
    let known = FIELDS.into_iter().find(|known| *known as i32 == field);
    let Some(known) = known else {
        return Err(Failure::invalid(format!(
            "field: a constant of nauthilus_backend_field expected, got {field}"
        )));
    };
    result.0.with(|result| work(place(result, known)))
}

exported!(
    fn nauthilus_backend_result_new(result: *mut *mut ResultHandle) -> Done {
        handle::give("result", result, ResultHandle(SharedResult::default()))
    }
);

reference_counted!(
    nauthilus_backend_result_retain,
    nauthilus_backend_result_release,
    result: ResultHandle
);

exported!(
    fn nauthilus_backend_result_set_flag(
        result: *mut ResultHandle,
        field: FieldCode,
        value: i32,
    ) -> Done {
        at(result, field, |place| {
            *place.flag()? = value != 0;
            Ok(())
        })
    }
);

exported!(
    fn nauthilus_backend_result_flag(
        result: *const ResultHandle,
        field: FieldCode,
        value: *mut i32,
    ) -> Done {
        let value = out("value", value)?;
        value.write(at(result, field, |place| Ok((*place.flag()?).into()))?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_set_text(
        result: *mut ResultHandle,
        field: FieldCode,
        text: *const c_char,
        text_size: usize,
    ) -> Done {
        let text = text::bytes("text", text, text_size)?;
        at(result, field, |place| {
            *place.text()? = Some(text.into());
            Ok(())
        })
    }
);

exported!(
    fn nauthilus_backend_result_text(
        result: *const ResultHandle,
        field: FieldCode,
        text: *mut OwnedString,
    ) -> Done {
        let text = out("text", text)?;
        text.write(at(result, field, |place| match place.text()? {
            Some(set) => Ok(text::give(set)),
            None => Err(Failure::new(
                Status::NotFound,
                format!("field {field} is not set"),
            )),
        })?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_set_list(
        result: *mut ResultHandle,
        field: FieldCode,
        texts: *const View,
        count: usize,
    ) -> Done {
        let texts = text::list("texts", texts, count)?;
        at(result, field, |place| {
            *place.list()? = texts;
            Ok(())
        })
    }
);

exported!(
    fn nauthilus_backend_result_list_count(
        result: *const ResultHandle,
        field: FieldCode,
        count: *mut usize,
    ) -> Done {
        let count = out("count", count)?;
        count.write(at(result, field, |place| Ok(place.list()?.len()))?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_list_at(
        result: *const ResultHandle,
        field: FieldCode,
        index: usize,
        text: *mut OwnedString,
    ) -> Done {
        let text = out("text", text)?;
        text.write(at(result, field, |place| {
            Ok(text::give(item(place.list()?, index)?))
        })?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_clear(result: *mut ResultHandle, field: FieldCode) -> Done {
        at(result, field, |place| {
            match place {
                Place::Flag(flag) => *flag = false,
                Place::Text(text) => *text = None,
                Place::List(list) => *list = Vec::new(),
                Place::Attributes(attributes) => *attributes = Attributes::default(),
            }
            Ok(())
        })
    }
);

/// The item at `index`, from 0.
///
/// # Errors
///
/// There is no item at `index`.
pub(super) fn item<T>(items: &[T], index: usize) -> Result<&T, Failure> {
    items.get(index).ok_or_else(|| beyond(index, items.len()))
}

/// The failure for an `index` that is not below `count`.
pub(super) fn beyond(index: usize, count: usize) -> Failure {
    Failure::new(
        Status::OutOfRange,
        format!("index: a number below {count} expected, got {index}"),
    )
}
