//! The input of the parser: corrects how it reads a tab after a colon.

use saphyr_parser::input::SkipTabs;
use saphyr_parser::{Input, StrInput};

/// A text in which a tab separates a key from its value as a space does (YAML 1.2.2 §6.2). Without this the
/// parser refuses a letter or a minus sign after `:` and a tab.
pub(super) struct TextInput<'t>(StrInput<'t>);

impl<'t> TextInput<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self(StrInput::new(text))
    }
}

/// Forwards methods to [`StrInput`] unchanged. All methods, not only those that the trait requires:
/// `StrInput` has faster versions than the trait's defaults.
macro_rules! as_it_is {
    ($($name:ident($($kind:tt)+) $(-> $out:ty)?;)+) => {
        $(as_it_is!(@one $name($($kind)+) $(-> $out)?);)+
    };
    (@one $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $out:ty)?) => {
        #[inline]
        fn $name(&mut self $(, $arg: $type)*) $(-> $out)? {
            self.0.$name($($arg),*)
        }
    };
    (@one $name:ident(&self $(, $arg:ident: $type:ty)*) $(-> $out:ty)?) => {
        #[inline]
        fn $name(&self $(, $arg: $type)*) $(-> $out)? {
            self.0.$name($($arg),*)
        }
    };
}

impl Input for TextInput<'_> {
    as_it_is! {
        lookahead(&mut self, count: usize);
        buflen(&self) -> usize;
        bufmaxlen(&self) -> usize;
        buf_is_empty(&self) -> bool;
        raw_read_ch(&mut self) -> char;
        raw_read_non_breakz_ch(&mut self) -> Option<char>;
        skip(&mut self);
        skip_n(&mut self, count: usize);
        peek(&self) -> char;
        peek_nth(&self, n: usize) -> char;
        peek_opt(&self) -> Option<char>;
        look_ch(&mut self) -> char;
        next_char_is(&self, c: char) -> bool;
        nth_char_is(&self, n: usize, c: char) -> bool;
        next_2_are(&self, c1: char, c2: char) -> bool;
        next_3_are(&self, c1: char, c2: char, c3: char) -> bool;
        next_is_document_indicator(&self) -> bool;
        next_is_document_start(&self) -> bool;
        next_is_document_end(&self) -> bool;
        next_can_be_plain_scalar(&self, in_flow: bool) -> bool;
        next_is_blank_or_break(&self) -> bool;
        next_is_blank_or_breakz(&self) -> bool;
        next_is_blank(&self) -> bool;
        next_is_break(&self) -> bool;
        next_is_breakz(&self) -> bool;
        next_is_z(&self) -> bool;
        next_is_flow(&self) -> bool;
        next_is_digit(&self) -> bool;
        next_is_alpha(&self) -> bool;
        skip_while_non_breakz(&mut self) -> usize;
        skip_while_blank(&mut self) -> usize;
        fetch_while_is_alpha(&mut self, out: &mut String) -> usize;
        fetch_while_is_yaml_non_space(&mut self, out: &mut String) -> usize;
    }

    fn skip_ws_to_eol(&mut self, skip_tabs: SkipTabs) -> (usize, Result<SkipTabs, &'static str>) {
        let (count, skipped) = self.0.skip_ws_to_eol(skip_tabs);
        let skipped = skipped.map(|skipped| match skipped {
            SkipTabs::Result(tabs, spaces) => SkipTabs::Result(tabs, spaces || tabs),
            other => other,
        });
        (count, skipped)
    }
}
