//! Requests of the machine `proxy1` about one user, with settings that the tests share.

use std::time::Duration;

use nauthilus_backend::engine::cluster::script::{
    Binding, Forget, Hold, LoginAnswer, LoginRequest, MoveUser, OwnNode, Remembered, SeenNode,
    Sync, Touch, UserDigest,
};

use super::server::{SECOND, Server};

pub(crate) const RETENTION: Duration = Duration::from_secs(3_600);
pub(crate) const MOVE_DELAY: Duration = Duration::from_secs(20);
pub(crate) const MIN_STAY: Duration = Duration::from_secs(60);
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(900);

pub(crate) fn user(name: &str) -> UserDigest {
    UserDigest::of(name.as_bytes(), None)
}

pub(crate) fn alice() -> UserDigest {
    user("alice")
}

/// A node that is dead.
pub(crate) fn dead(name: &str) -> SeenNode {
    SeenNode {
        usable: false,
        usable_for_new: false,
        ..seen(name)
    }
}

/// A node that can serve every user.
pub(crate) fn seen(name: &str) -> SeenNode {
    SeenNode {
        name: name.to_owned(),
        in_pools: true,
        matches: true,
        usable: true,
        usable_for_new: true,
        takes_new: true,
        drain_since: 0,
        asked_kinds: Vec::new(),
    }
}

impl Server {
    /// A login of alice where hashing gives the first of these nodes.
    pub(crate) fn login(&self, nodes: &[SeenNode]) -> LoginRequest {
        LoginRequest {
            user: alice(),
            nodes: nodes.to_vec(),
            remembered: None,
            deadline: self.now + SECOND,
            retention: RETENTION,
            move_delay: MOVE_DELAY,
            min_stay: MIN_STAY,
            drain_time: DRAIN_TIME,
            moves_on_failure: true,
            needs_quorum: false,
            machine: "proxy1".to_owned(),
            explains: false,
        }
    }

    pub(crate) fn move_to(&self, node: &str, keep: bool) -> MoveUser {
        MoveUser {
            user: alice(),
            node: node.to_owned(),
            keep,
            reason: "asked for".to_owned(),
            by: "ann".to_owned(),
            retention: RETENTION,
            remembered: None,
            deadline: self.now + SECOND,
        }
    }

    pub(crate) fn forget(&self) -> Forget {
        Forget {
            user: alice(),
            reason: "asked for".to_owned(),
            by: "ann".to_owned(),
            retention: RETENTION,
            remembered: None,
            deadline: self.now + SECOND,
        }
    }

    pub(crate) fn hold(&self, seconds: u64) -> Hold {
        Hold {
            user: alice(),
            duration: Duration::from_secs(seconds),
            reason: "mailbox repair".to_owned(),
            by: "ann".to_owned(),
            remembered: None,
            deadline: self.now + SECOND,
        }
    }

    pub(crate) fn touch(&self, node: &str) -> Touch {
        Touch {
            users: vec![alice()],
            node: node.to_owned(),
            retention: RETENTION,
            is_draining: false,
            deadline: self.now + SECOND,
        }
    }

    /// The registration of a machine that finds these nodes usable or not.
    pub(crate) fn sync(&self, machine: &str, nodes: &[(&str, bool)]) -> Sync {
        let own = |&(name, usable): &(&str, bool)| OwnNode {
            name: name.to_owned(),
            usable,
            drain_since: 0,
            logins: Vec::new(),
        };
        Sync {
            machine: machine.to_owned(),
            config_hash: "same".to_owned(),
            nodes: nodes.iter().map(own).collect(),
            drain_time: DRAIN_TIME,
            wants_counts: false,
            generation: 0,
            settings: Vec::new(),
            deadline: self.now + SECOND,
        }
    }

    /// Lets so many seconds pass, in which these machines register every few seconds with these nodes.
    pub(crate) fn pass_with(&mut self, seconds: u64, machines: &[(&str, &[(&str, bool)])]) {
        let register = |server: &mut Self| {
            for (machine, nodes) in machines {
                let sync = server.sync(machine, nodes);
                server.run(&sync);
            }
        };
        register(self);
        let mut left = seconds;
        while left > 0 {
            let step = left.min(3);
            self.pass(step);
            left -= step;
            register(self);
        }
    }

    /// Alice's record as a machine remembers it.
    pub(crate) fn remembered(&mut self) -> Remembered {
        let number = |server: &mut Self, name| server.number(&alice(), name);
        Remembered {
            node: self.field(&alice(), "node"),
            from: self.field(&alice(), "from"),
            since: number(self, "since") * 1_000,
            until: number(self, "until") * 1_000,
            held: number(self, "held") * 1_000,
            remains: number(self, "remains") * 1_000,
            generation: number(self, "generation"),
        }
    }
}

/// The record of an answer.
pub(crate) fn binding(answer: LoginAnswer) -> Binding {
    match answer {
        LoginAnswer::Bound(_, binding) | LoginAnswer::None { binding, .. } => binding,
        LoginAnswer::Late { .. } => panic!("the deadline was over"),
    }
}
