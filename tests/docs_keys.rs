//! The tables of configuration keys in docs/configuration.md are those of the code.
//!
//! `make docs-keys` writes them; here they are compared.

use std::error::Error;
use std::fs;

use nauthilus_backend::engine::config::{CLUSTER_KEYS, SERVICE_KEYS, TARGET_KEYS, markdown};

#[test]
fn the_configuration_keys_are_documented_as_they_are() -> Result<(), Box<dyn Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let before = fs::read_to_string(path)?;
    let mut after = before.clone();
    for (what, table) in [
        ("service keys", markdown(SERVICE_KEYS)),
        ("cluster keys", markdown(CLUSTER_KEYS)),
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

#[test]
fn the_header_and_the_lua_types_name_every_key() -> Result<(), Box<dyn Error>> {
    let read = |path| fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
    let header = read("include/nauthilus_backend.h")?;
    let lua = read("library/nauthilus_backend.lua")?;
    for (keys, in_c, class) in [
        (
            SERVICE_KEYS,
            "backend_server_monitoring has the keys",
            "Config",
        ),
        (CLUSTER_KEYS, "The table cluster has the keys", "Cluster"),
        (TARGET_KEYS, "A target has the keys", "Target"),
    ] {
        let part = header.split_once(in_c).ok_or("the header lists no keys")?.1;
        let part = part.split_once('.').ok_or("the list has no end")?.0;
        let listed: Vec<&str> = part
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        let start = format!("---@class nauthilus_backend.{class}\n");
        let fields = lua.split_once(&start).ok_or("the class is missing")?.1;
        let fields = fields.split("\n\n").next().unwrap_or_default();
        for key in keys {
            assert!(listed.contains(&key.name), "{} in the header", key.name);
            let field = format!("---@field {}", key.name);
            let is_field = |line: &str| {
                line.strip_prefix(&field)
                    .is_some_and(|rest| rest.starts_with(['?', ' ']))
            };
            assert!(fields.lines().any(is_field), "{} in {class}", key.name);
        }
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
