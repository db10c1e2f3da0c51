//! The configuration as users meet it: what is accepted, and the text of each refusal.

mod check;
mod cluster;
mod file;
mod limits;
mod mistakes;
mod policy;
mod routing;
mod section;
mod service;
mod target;
mod warnings;
mod yaml;

use super::issue::Path;
use super::yaml::{parse, to_value};
use super::{Config, ConfigError, Value};

/// A value written in YAML.
fn value(text: &str) -> Value {
    let tree = parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    // The tree is leaked so that its root lives long enough. The test process ends soon.
    let root = Box::leak(Box::new(tree)).root();
    to_value(root, &Path::default(), &no_env).unwrap_or_else(|issue| panic!("{text}: {issue}"))
}

fn no_env(_: &str) -> Option<std::ffi::OsString> {
    None
}

/// A configuration from a table, the way a Lua host gives it.
fn table(text: &str) -> Result<Config, ConfigError> {
    Config::from_value(&value(text))
}

fn accepted(text: &str) -> Config {
    table(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match table(text) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted: {text}"),
    }
}
