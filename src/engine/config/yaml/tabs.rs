//! Tabs where only spaces may be.

use saphyr_parser::{Event, Marker};

use super::YamlError;

/// Finds tabs in the indentation of lists and tables, which YAML 1.2.2 §6.1 forbids. What stands
/// before a list or table in its own line is indentation, also after the `-`, `?` or `:` of the one
/// around it: in `- a: 1` the key is indented by two. The parser finds some of these tabs; accepted
/// ones would give the lines below another depth than a person sees.
pub(super) struct Indents<'t> {
    /// The text from the line on that was asked for last; empty where the text has no tab at all.
    rest: &'t str,
    /// The number of the line that `rest` begins with, from 1.
    line: usize,
    /// Whether each list or table that is open, the outermost first, is one in brackets or inside one.
    /// Those have no indentation.
    in_brackets: Vec<bool>,
}

impl<'t> Indents<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            rest: if text.contains('\t') { text } else { "" },
            line: 1,
            in_brackets: Vec::new(),
        }
    }

    /// `at`: where the part of the text ends that the event stands for. For a list or table in
    /// brackets that is behind its bracket, for any other the place of its first key or `-`.
    ///
    /// # Errors
    /// A tab before that place.
    pub(super) fn check(&mut self, event: &Event<'_>, at: Marker) -> Result<(), YamlError> {
        let first = match event {
            Event::SequenceStart(..) => "\"-\"",
            Event::MappingStart(..) => "the key",
            Event::SequenceEnd | Event::MappingEnd => {
                self.in_brackets.pop();
                return Ok(());
            }
            _ => return Ok(()),
        };
        // One line has few that are in no brackets, so the time does not grow faster than the text.
        if self.in_brackets.last() == Some(&true) {
            self.in_brackets.push(true);
            return Ok(());
        }
        let before = self.before(at);
        self.in_brackets.push(before.ends_with(['[', '{']));
        let is_indentation = |c| matches!(c, ' ' | '\t' | '-' | '?' | ':');
        if before.contains('\t') && before.chars().all(is_indentation) {
            let problem = format!("not YAML: spaces expected before {first}, got a tab");
            return Err(YamlError::new(at.line(), problem));
        }
        Ok(())
    }

    /// What stands before that place in its line. Places have to come in the order of the text.
    fn before(&mut self, at: Marker) -> &'t str {
        while self.line < at.line()
            && let Some(end) = self.rest.find(['\n', '\r'])
        {
            // CR and LF together end one line, as the parser counts.
            let length = if self.rest.split_at(end).1.starts_with("\r\n") {
                2
            } else {
                1
            };
            self.rest = self.rest.split_at(end + length).1;
            self.line += 1;
        }
        let mut places = self.rest.char_indices().map(|(at, _)| at);
        let length = places.nth(at.col()).unwrap_or(self.rest.len());
        self.rest.split_at(length).0
    }
}
