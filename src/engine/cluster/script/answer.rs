//! Reads what scripts return: flat arrays of texts.

use redis::Value;

use super::{BadAnswer, Binding, US_PER_MS};

/// The items of an array, taken one after the other.
pub(super) struct AnswerItems(std::vec::IntoIter<Value>);

impl AnswerItems {
    pub(super) fn of(answer: Value) -> Result<Self, BadAnswer> {
        match answer {
            Value::Array(items) => Ok(Self(items.into_iter())),
            _ => Err(BadAnswer("array expected")),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, BadAnswer> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => {
                String::from_utf8(bytes).map_err(|_| BadAnswer("text in UTF-8 expected"))
            }
            Some(Value::SimpleString(text)) => Ok(text),
            Some(_) => Err(BadAnswer("text expected")),
            None => Err(BadAnswer("more items expected")),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, BadAnswer> {
        let text = self.text()?;
        text.parse().map_err(|_| BadAnswer("number expected"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, BadAnswer> {
        Ok(self.text()? == "1")
    }

    /// Milliseconds in the answer, microseconds here.
    pub(super) fn time(&mut self) -> Result<u64, BadAnswer> {
        Ok(self.number()?.saturating_mul(US_PER_MS))
    }

    pub(super) fn array(&mut self) -> Result<Self, BadAnswer> {
        Self::of(self.0.next().ok_or(BadAnswer("more items expected"))?)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }
}

/// The answer of a script about one user.
pub(super) struct UserAnswer {
    /// A word that says what the script did.
    pub(super) outcome: String,
    /// Whether the user was moved to another node by this call.
    pub(super) has_moved: bool,
    pub(super) binding: Binding,
}

pub(super) enum Answered {
    User(UserAnswer),
    /// The deadline was over; with the time of Redis's clock.
    Late(u64),
}

pub(super) fn user_answer(answer: Value) -> Result<Answered, BadAnswer> {
    let mut items = AnswerItems::of(answer)?;
    let outcome = items.text()?;
    if outcome == LATE {
        return Ok(Answered::Late(items.number()?));
    }
    Ok(Answered::User(UserAnswer {
        outcome,
        has_moved: items.flag()?,
        binding: Binding {
            node: items.text()?,
            since: items.time()?,
            until: items.time()?,
            from: items.text()?,
            reason: items.text()?,
            by: items.text()?,
            generation: items.number()?,
            held: items.time()?,
            remains: items.time()?,
            ends: items.time()?,
        },
    }))
}

/// The outcome of a script that found its deadline in the past.
pub(super) const LATE: &str = "late";
