//! Where a password comes from: the environment, a file, or a person. Never from an argument.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::exit_status::CommandFailure;

/// The variable with the password.
pub(crate) const VARIABLE: &str = "NAUTHILUS_BACKEND_PASSWORD";

/// The longest password that is read, in bytes: what a configuration may hold.
const MAX: u64 = 1_024;

/// The password of `user`: from the file if there is one, else from [`VARIABLE`], else from a
/// prompt on the terminal.
pub(crate) fn of(user: &str, file: Option<&Path>) -> Result<Zeroizing<String>, CommandFailure> {
    if let Some(path) = file {
        return from_file(path)
            .map_err(|reason| CommandFailure::usage(format!("{}: {reason}", path.display())));
    }
    if let Some(password) = std::env::var_os(VARIABLE) {
        let password = Zeroizing::new(password.into_encoded_bytes());
        return match std::str::from_utf8(&password) {
            Ok(password) => Ok(Zeroizing::new(password.to_owned())),
            Err(_) => Err(CommandFailure::usage(format!("{VARIABLE}: UTF-8 expected"))),
        };
    }
    let prompt = format!("Password of {}: ", super::terminal::harmless(user));
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|error| {
            CommandFailure::usage(format!(
                "no password for {user:?}: {VARIABLE} is not set, --password-file is not given, and \
                 there is no terminal to ask on ({error})"
            ))
        })
}

/// The first line of a file.
fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut line = Zeroizing::new(String::with_capacity(2_048));
    BufReader::new(file.take(MAX + 2))
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("a password expected in the first line, got an empty one".to_owned());
    }
    Ok(Zeroizing::new(password.to_owned()))
}
