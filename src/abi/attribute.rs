//! The functions for the attributes of a result.

use std::ffi::c_char;

use super::handle::{self, ResultHandle};
use super::result::{beyond, item};
use super::status::{Done, Failure, Status, exported, out};
use super::text::{self, OwnedString, View};
use crate::engine::request::attribute_name::AttributeName;
use crate::engine::request::result::{AttributeValue, Attributes, Scalar, Text};
use crate::engine::request::{header_name, headers};

/// A type as C receives it.
type TypeCode = i32;

/// `nauthilus_backend_type`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Type {
    Text = 1,
    Integer = 2,
    Number = 3,
    Boolean = 4,
}

fn type_of(scalar: &Scalar) -> Type {
    match scalar {
        Scalar::Bytes(_) => Type::Text,
        Scalar::Integer(_) => Type::Integer,
        Scalar::Float(_) => Type::Number,
        Scalar::Bool(_) => Type::Boolean,
    }
}

/// Sets the attribute `name` to `value`.
///
/// # Safety
///
/// `result` is null or a handle of ours with a reference left; `name` is null or has `name_size`
/// bytes.
unsafe fn set(
    result: *mut ResultHandle,
    name: *const c_char,
    name_size: usize,
    value: AttributeValue,
) -> Done {
    // SAFETY: `result` is null or a handle with a reference left, and `name` is null or has
    // `name_size` bytes, by this function's contract.
    let (result, name) = unsafe {
        (
            handle::get("result", result)?,
            text::bytes("name", name, name_size)?,
        )
    };
    result.0.with(|result| {
        let mut pairs = copies(&result.attributes);
        pairs.push((name.into(), value));
        result.attributes = Attributes::from_pairs(pairs);
    });
    Ok(())
}

fn copies(attributes: &Attributes) -> Vec<(AttributeName, AttributeValue)> {
    let copy = |(name, value): (&AttributeName, &AttributeValue)| (name.clone(), value.clone());
    attributes.iter().map(copy).collect()
}

/// Runs `work` on the scalars of the attribute `name`, under the result's lock.
///
/// # Safety
///
/// `result` is null or a handle of ours with a reference left; `name` is null or has `name_size`
/// bytes.
unsafe fn scalars<T>(
    result: *const ResultHandle,
    name: *const c_char,
    name_size: usize,
    work: impl FnOnce(&[u8], &[Scalar]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // SAFETY: `result` is null or a handle with a reference left, and `name` is null or has
    // `name_size` bytes, by this function's contract.
    let (result, name) = unsafe {
        (
            handle::get("result", result)?,
            text::bytes("name", name, name_size)?,
        )
    };
    result.0.with(|result| match result.attributes.get(name) {
        Some(value) => work(name, value.scalars()),
        None => Err(missing(name)),
    })
}

fn missing(name: &[u8]) -> Failure {
    let shown = name.get(..header_name::LONGEST_NAME).unwrap_or(name);
    Failure::new(
        Status::NotFound,
        format!("there is no attribute \"{}\"", shown.escape_ascii()),
    )
}

exported!(
    fn nauthilus_backend_result_set_attribute(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
        text: *const c_char,
        text_size: usize,
    ) -> Done {
        let text = text::bytes("text", text, text_size)?;
        let value = AttributeValue::One(Scalar::Bytes(text.into()));
        set(result, name, name_size, value)
    }
);

exported!(
    fn nauthilus_backend_result_set_attribute_list(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
        texts: *const View,
        count: usize,
    ) -> Done {
        let texts = text::list("texts", texts, count)?;
        let scalars = texts
            .into_iter()
            .map(|text| Scalar::Bytes(Text::from_slice(&text)))
            .collect();
        set(result, name, name_size, AttributeValue::Many(scalars))
    }
);

exported!(
    fn nauthilus_backend_result_set_attribute_integer(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
        value: i64,
    ) -> Done {
        let value = AttributeValue::One(Scalar::Integer(value));
        set(result, name, name_size, value)
    }
);

exported!(
    fn nauthilus_backend_result_set_attribute_number(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
        value: f64,
    ) -> Done {
        let value = AttributeValue::One(Scalar::Float(value));
        set(result, name, name_size, value)
    }
);

exported!(
    fn nauthilus_backend_result_set_attribute_boolean(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
        value: i32,
    ) -> Done {
        let value = AttributeValue::One(Scalar::Bool(value != 0));
        set(result, name, name_size, value)
    }
);

exported!(
    fn nauthilus_backend_result_unset_attribute(
        result: *mut ResultHandle,
        name: *const c_char,
        name_size: usize,
    ) -> Done {
        let result = handle::get("result", result)?;
        let name = text::bytes("name", name, name_size)?;
        result.0.with(|result| {
            let mut pairs = copies(&result.attributes);
            let before = pairs.len();
            pairs.retain(|(other, _)| &**other != name);
            if pairs.len() == before {
                return Err(missing(name));
            }
            result.attributes = Attributes::from_pairs(pairs);
            Ok(())
        })
    }
);

exported!(
    fn nauthilus_backend_result_attribute_count(
        result: *const ResultHandle,
        count: *mut usize,
    ) -> Done {
        let result = handle::get("result", result)?;
        out("count", count)?.write(result.0.with(|result| result.attributes.len()));
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_attribute_name_at(
        result: *const ResultHandle,
        index: usize,
        name: *mut OwnedString,
    ) -> Done {
        let result = handle::get("result", result)?;
        let name = out("name", name)?;
        name.write(result.0.with(|result| {
            let attributes = &result.attributes;
            match attributes.iter().nth(index) {
                Some((found, _)) => Ok(text::give(found)),
                None => Err(beyond(index, attributes.len())),
            }
        })?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_attribute_value_count(
        result: *const ResultHandle,
        name: *const c_char,
        name_size: usize,
        count: *mut usize,
    ) -> Done {
        let count = out("count", count)?;
        count.write(scalars(result, name, name_size, |_, all| Ok(all.len()))?);
        Ok(())
    }
);

exported!(
    fn nauthilus_backend_result_attribute_value_at(
        result: *const ResultHandle,
        name: *const c_char,
        name_size: usize,
        index: usize,
        r#type: *mut TypeCode,
        text: *mut OwnedString,
    ) -> Done {
        let text = out("text", text)?;
        let (kind, shown) = scalars(result, name, name_size, |name, all| {
            let scalar = item(all, index)?;
            let shown = headers::value(name, &AttributeValue::One(scalar.clone()));
            Ok((type_of(scalar), shown))
        })?;
        text.write(text::give(&shown));
        if !r#type.is_null() {
            r#type.write(kind as i32);
        }
        Ok(())
    }
);
