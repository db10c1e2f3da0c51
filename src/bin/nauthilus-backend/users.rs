//! Names of users: from arguments, and from standard input as `doveadm who` prints them.

use std::collections::BTreeSet;
use std::io::{self, BufRead};

/// The longest name of a user, in bytes; longer ones have no key.
const NAME_MAX: usize = 1_024;

/// # Errors
/// Why no user has this name.
pub(crate) fn checked(name: &str) -> Result<(), String> {
    if !(1..=NAME_MAX).contains(&name.len()) {
        return Err(format!(
            "the name of a user of 1..{NAME_MAX} bytes expected, got {} bytes",
            name.len()
        ));
    }
    if name.contains(char::is_control) {
        return Err("the name of a user without control characters expected".to_owned());
    }
    Ok(())
}

/// The users of an input.
#[derive(Debug, Default)]
pub(crate) struct UserList {
    /// Each once.
    pub(crate) names: Vec<String>,
    /// How many lines have a name that no user has.
    pub(crate) left_out: usize,
    /// The first of these lines, and what is wrong with it.
    pub(crate) first_left_out: Option<String>,
}

impl UserList {
    fn leave_out(&mut self, number: usize, why: &str) {
        self.left_out += 1;
        self.first_left_out
            .get_or_insert_with(|| format!("line {number}: {why}"));
    }
}

/// Reads users: plain lines with a name each, or what `doveadm who` prints, with `-1` too. A line that does
/// not read is left out: it must not keep the others' sessions from being reported.
///
/// # Errors
/// The input cannot be read.
pub(crate) fn read(input: impl BufRead) -> io::Result<UserList> {
    let mut users = UserList::default();
    let mut names = BTreeSet::new();
    let mut is_table = false;
    for (index, line) in input.split(b'\n').enumerate() {
        let line = line?;
        let Ok(line) = std::str::from_utf8(&line) else {
            users.leave_out(index + 1, "UTF-8 expected");
            continue;
        };
        let line = line.trim();
        if is_heading(line) {
            is_table = true;
            continue;
        }
        let name = match row_of_who(line) {
            Some(name) => name,
            None if is_table => line.split_whitespace().next().unwrap_or_default(),
            None => line,
        };
        if name.is_empty() {
            continue;
        }
        match checked(name) {
            Ok(()) => {
                names.insert(name.to_owned());
            }
            Err(why) => users.leave_out(index + 1, &why),
        }
    }
    users.names = names.into_iter().collect();
    Ok(users)
}

/// `username   # proto (pids) (ips)`, or with `-1`: `username   proto pid ip`.
fn is_heading(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("username") && matches!(words.next(), Some("#" | "proto"))
}

/// The user of a line such as `alice@example.org   2 imap (101 102) (192.0.2.1)`.
fn row_of_who(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let (count, rest) = rest.trim_start().split_once(' ')?;
    let (_, pids) = rest.trim_start().split_once(' ')?;
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && pids.trim_start().starts_with('(')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(input: &str) -> Vec<String> {
        let read = read(input.as_bytes()).unwrap();
        assert_eq!(read.left_out, 0, "{read:?}");
        read.names
    }

    #[test]
    fn what_doveadm_prints_is_read() {
        let who = "username                # proto (pids)    (ips)\n\
                   alice@example.org       2 imap  (101 102) (192.0.2.1 2001:db8::1)\n\
                   alice@example.org       1 sieve (103)     (192.0.2.1)\n\
                   bob                     1 imap  (104)     ()\n";
        assert_eq!(users(who), ["alice@example.org", "bob"]);
        let without_heading = who.split_once('\n').unwrap().1;
        assert_eq!(users(without_heading), ["alice@example.org", "bob"]);
        let one_a_line = "username proto pid ip\nalice imap 101 192.0.2.1\nbob   imap 104\n";
        assert_eq!(users(one_a_line), ["alice", "bob"]);
    }

    #[test]
    fn plain_lines_are_names() {
        assert_eq!(
            users("bob\n\nalice\r\nbob\nfirst last\n"),
            ["alice", "bob", "first last"]
        );
        assert!(users("").is_empty());
    }

    #[test]
    fn a_line_that_is_no_name_is_left_out() {
        let input = [b"a\n\xff\n".as_slice(), &[b'u'; 1_025], b"\na\x1bb\nc\n"].concat();
        let read = read(&input[..]).unwrap();
        assert_eq!(
            (read.names, read.left_out),
            (vec!["a".to_owned(), "c".to_owned()], 3)
        );
        assert_eq!(
            read.first_left_out.as_deref(),
            Some("line 2: UTF-8 expected")
        );
    }
}
