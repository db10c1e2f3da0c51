//! The subcommands that change users' bindings: `move`, `forget`, `hold`, `flush`, `touch`.

use std::io::{self, IsTerminal};

use nauthilus_backend::engine::state_file::BODY_MAX;
use nauthilus_backend::engine::state_file::call::{CallKind, WantedCall};
use serde_json::Value as Json;

use super::cli::{AuthorArgs, EngineArgs, FlushArgs, HoldArgs, MoveArgs, TouchArgs, UserArgs};
use super::engine::{AskFailure, ask};
use super::exit_status::{CommandFailure, ExitStatus};
use super::places::EnginePlaces;
use super::store::DirectStore;
use super::terminal::{self, count_text, harmless};
use super::users;

pub(crate) fn move_user(args: &MoveArgs) -> Result<ExitStatus, CommandFailure> {
    let kind = CallKind::Move {
        user: user(&args.user)?,
        node: args.node.clone(),
        keep: args.keep,
    };
    let done = Caller::of(&args.engine)?.call(wanted(kind, &args.author))?;
    let word = if args.keep { "pinned" } else { "bound" };
    let before = match done.text("from") {
        Some(from) if done.is("left") => format!(", left {from}"),
        _ => String::new(),
    };
    say(&args.user, &format!("{word} to {}{before}", args.node));
    Ok(ExitStatus::Good)
}

pub(crate) fn forget(args: &UserArgs) -> Result<ExitStatus, CommandFailure> {
    let kind = CallKind::Forget {
        user: user(&args.user)?,
    };
    let done = Caller::of(&args.engine)?.call(wanted(kind, &args.author))?;
    match done.text("from").filter(|_| done.is("left")) {
        Some(from) => say(&args.user, &format!("no longer bound to {from}")),
        None => say(&args.user, "was not bound"),
    }
    Ok(ExitStatus::Good)
}

pub(crate) fn hold(args: &HoldArgs) -> Result<ExitStatus, CommandFailure> {
    let kind = CallKind::Hold {
        user: user(&args.user)?,
        duration: args.time,
    };
    let done = Caller::of(&args.engine)?.call(wanted(kind, &args.author))?;
    let binding = match done.text("node") {
        Some(node) => format!("bound to {node}"),
        None => "not bound".to_owned(),
    };
    if args.time.is_zero() {
        say(&args.user, &format!("not held, {binding}"));
    } else {
        let time = humantime::format_duration(args.time);
        say(&args.user, &format!("held for {time}, {binding}"));
    }
    Ok(ExitStatus::Good)
}

pub(crate) fn flush(args: &FlushArgs) -> Result<ExitStatus, CommandFailure> {
    let kind = CallKind::Flush {
        node: args.node.clone(),
        rate: args.rate,
    };
    let done = Caller::of(&args.engine)?.call(wanted(kind, &args.author))?;
    let what = args
        .node
        .as_deref()
        .unwrap_or("users bound elsewhere than hashing puts them");
    match done.released {
        Some(count) => say(what, &format!("{} released", count_bindings(count))),
        None => say(
            what,
            &format!(
                "being released, {} a second at most",
                count_bindings(args.rate)
            ),
        ),
    }
    Ok(ExitStatus::Good)
}

fn count_bindings(count: u64) -> String {
    count_text(usize::try_from(count).unwrap_or(usize::MAX), "binding")
}

pub(crate) fn touch(args: &TouchArgs) -> Result<ExitStatus, CommandFailure> {
    let mut caller = Caller::of(&args.engine)?;
    let input = io::stdin();
    if input.is_terminal() {
        terminal::complain("reading users from the terminal, one a line; Ctrl-D ends them");
    }
    let users = users::read(input.lock())
        .map_err(|error| CommandFailure::bad(format!("standard input: {error}")))?;
    if let Some(first) = &users.first_left_out {
        let lines = count_text(users.left_out, "line");
        terminal::complain(&format!(
            "standard input: {lines} left out, the first: {first}"
        ));
    }
    let mut bound: u64 = 0;
    for users in pieces(&users.names) {
        let kind = CallKind::Touch {
            users: users.to_vec(),
            node: args.node.clone(),
        };
        let done = caller.call(WantedCall {
            kind,
            by: String::new(),
            reason: String::new(),
        })?;
        bound += done.reply.get("bound").and_then(Json::as_u64).unwrap_or(0);
    }
    let count = count_text(users.names.len(), "user");
    say(&args.node, &format!("{bound} of {count} bound to it"));
    Ok(ExitStatus::good_if(users.left_out == 0))
}

/// Splits a list into parts that fit into one request each. An empty list gives one empty part: its
/// request lets the engine check the node's name.
fn pieces(users: &[String]) -> impl Iterator<Item = &[String]> {
    let mut rest = Some(users);
    std::iter::from_fn(move || {
        let users = rest.take()?;
        let mut room = BODY_MAX / 2;
        let fits = |user: &&String| {
            // The length of the user's field in a request if every byte of the name needs a
            // backslash.
            let length = user.len() * 2 + r#" user="""#.len();
            let has_room = length <= room;
            room = room.saturating_sub(length);
            has_room
        };
        let count = users.iter().take_while(fits).count().max(1);
        let (piece, later) = users.split_at(count.min(users.len()));
        rest = Some(later).filter(|later| !later.is_empty());
        Some(piece)
    })
}

// === The call ===

fn wanted(kind: CallKind, author: &AuthorArgs) -> WantedCall {
    WantedCall {
        kind,
        by: author.by(),
        reason: author.reason.clone(),
    }
}

fn user(name: &str) -> Result<String, CommandFailure> {
    users::checked(name).map_err(CommandFailure::usage)?;
    Ok(name.to_owned())
}

fn say(subject: &str, what: &str) {
    terminal::line(&harmless(&format!("{subject}: {what}")));
}

/// The reply to a call.
struct CallReply {
    reply: Json,
    /// How many bindings the command itself has released.
    released: Option<u64>,
}

impl CallReply {
    fn text(&self, name: &str) -> Option<&str> {
        self.reply.get(name)?.as_str()
    }

    fn is(&self, name: &str) -> bool {
        self.reply.get(name).and_then(Json::as_bool) == Some(true)
    }
}

/// Makes calls: through the engine that keeps the state file, or from the command itself, in Redis.
struct Caller<'a> {
    args: &'a EngineArgs,
    places: EnginePlaces,
    direct: Option<DirectStore>,
}

impl<'a> Caller<'a> {
    fn of(args: &'a EngineArgs) -> Result<Self, CommandFailure> {
        let places = EnginePlaces::of(args)?;
        Ok(Self {
            args,
            places,
            direct: None,
        })
    }

    fn call(&mut self, wanted: WantedCall) -> Result<CallReply, CommandFailure> {
        if self.direct.is_none()
            && let Some(path) = &self.places.state_file
        {
            match ask(path, &wanted.line(), self.args.wait) {
                Ok(lines) => {
                    let line = lines.first().map_or("", String::as_str);
                    return Ok(CallReply {
                        reply: serde_json::from_str(line).unwrap_or_default(),
                        released: None,
                    });
                }
                Err(AskFailure::Unanswered(reason)) if self.has_store() => {
                    terminal::complain(&format!("{reason}; going on without an engine"));
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        let (line, released) = self.direct()?.call(wanted)?;
        Ok(CallReply {
            reply: serde_json::from_str(&line).unwrap_or_default(),
            released: Some(released),
        })
    }

    fn has_store(&self) -> bool {
        let config = self.places.config.as_ref();
        config.is_some_and(|(_, config)| config.cluster.is_some())
    }

    fn direct(&mut self) -> Result<&DirectStore, CommandFailure> {
        let direct = match self.direct.take() {
            Some(direct) => direct,
            None => match self.places.config.take() {
                Some((_, config)) if config.cluster.is_some() => {
                    DirectStore::open(config, None, self.args.wait)?
                }
                Some((path, _)) => {
                    return Err(CommandFailure::bad(format!(
                        "no store: {} has no cluster",
                        path.display()
                    )));
                }
                None => return Err(CommandFailure::bad("no store: no cluster is configured")),
            },
        };
        Ok(self.direct.insert(direct))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_in_one_request_and_each_request_fits() {
        let users: Vec<String> = (0..5_000).map(|n| format!("\"{n}\"@example.org")).collect();
        let mut seen = Vec::new();
        for piece in pieces(&users) {
            let call = WantedCall {
                kind: CallKind::Touch {
                    users: piece.to_vec(),
                    node: "n".repeat(255),
                },
                by: String::new(),
                reason: String::new(),
            };
            assert!(call.line().len() <= BODY_MAX);
            seen.extend_from_slice(piece);
        }
        assert_eq!(seen, users);
        assert_eq!(pieces(&[]).count(), 1);
        assert_eq!(pieces(&["u".repeat(1_024)]).count(), 1);
    }
}
