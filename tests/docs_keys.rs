//! The tables of configuration keys in docs/configuration.md are those of the code.
//!
//! `make docs-keys` writes them; here they are compared.

use std::error::Error;
use std::fs;

use nauthilus_backend::engine::config::{SERVICE_KEYS, TARGET_KEYS, markdown};

#[test]
fn the_configuration_keys_are_documented_as_they_are() -> Result<(), Box<dyn Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let before = fs::read_to_string(path)?;
    let mut after = before.clone();
    for (what, table) in [
        ("service keys", markdown(SERVICE_KEYS)),
        ("target keys", markdown(TARGET_KEYS)),
    ] {
        after = with_table(&after, what, &table)
            .ok_or_else(|| format!("docs/configuration.md has no place for the {what}"))?;
    }
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(path, after)?;
    } else {
        assert!(
            after == before,
            "docs/configuration.md is out of date: run `make docs-keys`"
        );
    }
    Ok(())
}

/// `text` with what is between the comments that name `what` replaced.
fn with_table(text: &str, what: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(&format!("<!-- {what}:"))?;
    let (comment, rest) = rest.split_once("-->\n")?;
    let (_, after) = rest.split_once(&format!("<!-- end of {what} -->"))?;
    Some(format!(
        "{before}<!-- {what}:{comment}-->\n{table}<!-- end of {what} -->{after}"
    ))
}
