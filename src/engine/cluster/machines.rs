//! The registration of this machine, and what it learns from it: other machines with other settings,
//! what operators have set elsewhere, how many users each node has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};
use serde_json::{Map, Value as Json};
use tokio::time::timeout;

use super::connection::{CallError, Connection};
use super::script::{ClusterSetting, NodeCount, OwnNode, Sync, Synced};
use crate::engine::active::{ActiveConfig, NodeUsers};
use crate::engine::log::{Level, Line, Log};
use crate::engine::verdicts::digest::sha256;
use crate::engine::verdicts::{Event, EventKind, Operator, OperatorState, Setting, UserCounts};
use crate::sys::host_name::host_name;

/// How long the request for the eviction policy may take. No login waits for it.
const EVICTION_POLICY_TIME: Duration = Duration::from_millis(300);

/// This machine as the store knows it.
pub(super) struct Machine {
    /// The configuration whose nodes are registered.
    active: Arc<ActiveConfig>,
    name: String,
    config_hash: String,
    /// The sequence of operators' settings when they were last sent.
    sent: Option<u64>,
    /// Whether the nodes were registered then: the configuration was the latest one of this machine.
    has_registered: bool,
    /// The server's eviction policy, if it may forget bindings by itself.
    eviction: Option<String>,
    /// Whether the server of the present connection has answered the request for its eviction policy,
    /// even if only with a refusal.
    knows_eviction: bool,
    /// The warnings that were logged last.
    logged: Vec<String>,
}

/// The name of this machine in the store. Engines that share no table have different ones, so that
/// their registrations do not replace each other.
pub(super) fn machine_name(active: &ActiveConfig) -> String {
    let host = host_name().unwrap_or_else(|| "localhost".to_owned());
    let host: String = host.chars().filter(|c| !c.is_control()).collect();
    format!("{host}/{:08x}", active.table.id() & 0xffff_ffff)
}

impl Machine {
    pub(super) fn of(active: &Arc<ActiveConfig>) -> Self {
        Self {
            active: active.clone(),
            name: machine_name(active),
            config_hash: config_hash(active),
            sent: None,
            has_registered: false,
            eviction: None,
            knows_eviction: false,
            logged: Vec::new(),
        }
    }

    /// Whether the nodes of this configuration are registered.
    pub(super) fn follows(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.active, active)
    }

    /// Registers the nodes of this configuration from now on.
    pub(super) fn follow(&mut self, active: &Arc<ActiveConfig>) {
        if !self.follows(active) {
            self.active = active.clone();
            self.config_hash = config_hash(active);
            self.sent = None;
        }
    }

    /// Reads the server's eviction policy, unless it is known: the server may delete bindings by itself. If
    /// the server does not answer in time, the next call asks again.
    pub(super) async fn read_eviction_policy(&mut self, connection: &Connection) {
        if self.knows_eviction {
            return;
        }
        if let Ok(policy) = timeout(EVICTION_POLICY_TIME, eviction_policy(connection)).await {
            self.knows_eviction = true;
            self.eviction = policy.filter(|policy| policy != "noeviction");
        }
    }

    /// Forgets the eviction policy: the next connection may lead to another server.
    pub(super) fn forget_server(&mut self) {
        self.knows_eviction = false;
    }

    /// Whether another configuration is served since the last registration, or in force on this machine, or an
    /// operator has set something here.
    pub(super) fn has_news(&self, active: &Arc<ActiveConfig>) -> bool {
        !self.follows(active)
            || self.sent != Some(active.table.operators_sequence())
            || self.has_registered != active.is_latest()
    }

    pub(super) fn registration(&mut self, deadline: u64) -> Sync {
        let active = &self.active;
        self.sent = Some(active.table.operators_sequence());
        let settings = active.table.operators().iter().map(to_store).collect();
        self.has_registered = active.is_latest();
        if !self.has_registered {
            // An old worker of nginx: another process registers the machine, with other nodes. This one still hears
            // of what operators set.
            return exchange(active, settings, deadline);
        }
        let nodes = active.standings_of_all();
        let cluster = active.config.cluster.as_deref();
        let needs_quorum = cluster.is_some_and(|cluster| cluster.needs_quorum);
        let mut of_kinds = if needs_quorum {
            active.standings_of_kinds()
        } else {
            HashMap::new()
        };
        Sync {
            machine: self.name.clone(),
            config_hash: self.config_hash.clone(),
            nodes: nodes
                .into_iter()
                .map(|standing| OwnNode {
                    name: standing.node.name.to_string(),
                    usable: standing.usable,
                    drain_since: standing.drain_since_ms.saturating_mul(1000),
                    logins: of_kinds.remove(&*standing.node.name).unwrap_or_default(),
                })
                .collect(),
            drain_time: active.config.routing.drain_time,
            wants_counts: true,
            generation: active.table.bindings_generation(),
            settings,
            deadline,
        }
    }

    pub(super) fn learn(&mut self, log: &Log, answer: Synced) -> Result<(), CallError> {
        let active = &self.active;
        let Synced::Done {
            now,
            machines,
            settings,
            counts,
            ..
        } = answer
        else {
            return Err(CallError("no answer in time".to_owned()));
        };
        for operator in settings.iter().filter_map(from_store) {
            // Fails where there is no room for more settings; the next registration tries again.
            let _ = active.set_operator(&operator);
        }
        if !active.is_latest() {
            return Ok(());
        }
        let (mut warnings, mut differences) = (Vec::new(), Vec::new());
        if let Some(policy) = &self.eviction {
            warnings.push(format!(
                "cluster: Redis may evict bindings (maxmemory-policy {policy}); noeviction expected"
            ));
        }
        for other in &machines {
            let differing = differing(&self.config_hash, &other.config_hash);
            if !differing.is_empty() {
                let (name, what) = (&other.machine, differing.join(" and "));
                let warning = format!("cluster: {name} has other {what} than {}", self.name);
                if !self.logged.contains(&warning) {
                    differences.push((name, what));
                }
                warnings.push(warning);
            }
        }
        for warning in warnings
            .iter()
            .filter(|warning| !self.logged.contains(warning))
        {
            log.write(Line::new(Level::Warning, "cluster_warning").quoted("reason", warning));
        }
        for (name, what) in differences {
            note_difference(active, name, what);
        }
        self.logged.clone_from(&warnings);
        active.note_cluster_warnings(warnings);
        let users: Vec<_> = counts.into_iter().map(|one| to_users(one, now)).collect();
        active.note_node_users(&users);
        Ok(())
    }
}

/// Sends what operators have set on this machine to Redis and takes over what others have set. Does not register
/// the machine's nodes.
pub(super) fn exchange(
    active: &ActiveConfig,
    settings: Vec<ClusterSetting>,
    deadline: u64,
) -> Sync {
    Sync {
        machine: String::new(),
        config_hash: String::new(),
        nodes: Vec::new(),
        drain_time: active.config.routing.drain_time,
        wants_counts: false,
        generation: 0,
        settings,
        deadline,
    }
}

/// Adds an event that says that another machine has other settings. Each process of this machine notices the
/// difference, but only the first one adds the event: not again within a minute.
fn note_difference(active: &ActiveConfig, machine: &str, what: String) {
    const ONE_EVENT_MS: u64 = 60_000;
    let event = Event::new(EventKind::Cluster, format!("machine:{machine}"));
    let event = event.change("", "differs").reason(what);
    let before = active.table.events_after(0).events;
    let is_same = |one: &Event| {
        one.kind == event.kind
            && one.subject == event.subject
            && event.reason.starts_with(&one.reason)
            && event.time_ms.saturating_sub(one.time_ms) < ONE_EVENT_MS
    };
    if !before.iter().any(is_same) {
        active.table.add_event(&event);
    }
}

fn to_users(count: NodeCount, as_of_us: u64) -> NodeUsers {
    NodeUsers {
        node: count.node,
        counts: UserCounts {
            as_of_us,
            users: count.users,
            moved_in: count.moved_in,
            moved_out: count.moved_out,
        },
    }
}

/// The server's eviction policy, from `CONFIG` or, where this user may not use it, `INFO`.
async fn eviction_policy(connection: &Connection) -> Option<String> {
    let mut question = cmd("CONFIG");
    question.arg("GET").arg("maxmemory-policy");
    if let Ok(answer) = connection.send(&question).await {
        let parts: Vec<(String, String)> = redis::from_redis_value(answer).ok()?;
        return parts.into_iter().next().map(|(_, policy)| policy);
    }
    let answer = connection.send(cmd("INFO").arg("memory")).await.ok()?;
    let text: String = match answer {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    Some(line.trim().to_owned())
}

/// The hashes of the settings that all machines have to agree on: `nodes:1a2b3c4d keys:… bindings:…`.
fn config_hash(active: &ActiveConfig) -> String {
    let (config, routing) = (&active.config, &active.config.routing);
    let mut nodes: Vec<String> = active
        .nodes()
        .map(|node| format!("{}\t{}\t{}", node.name, node.pool, node.weight))
        .collect();
    nodes.sort_unstable();
    let cluster = config.cluster.as_deref();
    let hmac = cluster.and_then(|cluster| cluster.files.hmac_key.as_ref());
    let hmac = hmac.map(|key| sha256(key));
    let keys = format!(
        "{:?} {:?} {:?} {hmac:?}",
        routing.user_key, routing.master_separator, routing.detail_separator
    );
    let rules = cluster.map(|cluster| {
        let (retention, moves) = (cluster.retention, cluster.moves_on_failure);
        let times = (cluster.move_delay, cluster.min_stay, routing.drain_time);
        (
            retention,
            moves,
            times,
            cluster.needs_quorum,
            routing.node_usable,
        )
    });
    let parts = [
        ("nodes", nodes.join("\n")),
        ("keys", keys),
        ("rules", format!("{rules:?}")),
    ];
    let hashed = parts.map(|(name, text)| {
        let digest = sha256(text.as_bytes());
        let digits: String = digest
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{name}:{digits}")
    });
    hashed.join(" ")
}

/// The settings in which two configuration hashes differ, in words.
fn differing(mine: &str, theirs: &str) -> Vec<&'static str> {
    const WORDS: [(&str, &str); 3] = [
        ("nodes", "nodes, pools or weights"),
        ("keys", "settings of user_key, separators or key_file"),
        (
            "rules",
            "settings of retention, move_delay, min_stay, drain_time, node_failover, node_usable or verdicts",
        ),
    ];
    let part = |hash: &str, name: &str| {
        let mut parts = hash.split(' ').filter_map(|part| part.split_once(':'));
        parts
            .find(|(known, _)| *known == name)
            .map(|(_, digits)| digits.to_owned())
    };
    let differs = |(name, _): &&(&str, &str)| part(mine, name) != part(theirs, name);
    WORDS
        .iter()
        .filter(differs)
        .map(|(_, words)| *words)
        .collect()
}

/// An operator's setting as the store keeps it.
pub(super) fn to_store(operator: &Operator) -> ClusterSetting {
    let mut text = Map::new();
    let kind = match operator.setting {
        Setting::State(state) => {
            text.insert("state".into(), state.name().into());
            "state"
        }
        Setting::Weight(weight) => {
            text.insert("weight".into(), weight.map_or(Json::Null, Json::from));
            "weight"
        }
    };
    text.insert("until".into(), operator.until_ms.into());
    text.insert("reason".into(), operator.reason.as_str().into());
    text.insert("by".into(), operator.by.as_str().into());
    ClusterSetting {
        name: format!("{kind}:{}", operator.what),
        since_ms: operator.since_ms,
        text: Json::Object(text).to_string(),
    }
}

/// `None` for a setting that this version does not know.
pub(super) fn from_store(stored: &ClusterSetting) -> Option<Operator> {
    let (kind, what) = stored.name.split_once(':')?;
    let text: Json = serde_json::from_str(&stored.text).ok()?;
    let of = |key: &str| text.get(key).and_then(Json::as_str).unwrap_or_default();
    let setting = match kind {
        "state" => Setting::State(OperatorState::from_name(of("state"))?),
        "weight" => Setting::Weight(match text.get("weight") {
            Some(Json::Number(number)) => Some(u16::try_from(number.as_u64()?).ok()?),
            _ => None,
        }),
        _ => return None,
    };
    Some(Operator {
        what: what.to_owned(),
        setting,
        since_ms: stored.since_ms,
        until_ms: text.get("until").and_then(Json::as_u64).unwrap_or(0),
        reason: of("reason").to_owned(),
        by: of("by").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::Config;

    #[test]
    fn a_setting_comes_back_from_the_store_as_it_was() {
        for setting in [
            Setting::State(OperatorState::Drain),
            Setting::State(OperatorState::Auto),
            Setting::Weight(Some(7)),
            Setting::Weight(None),
        ] {
            let operator = Operator {
                what: "node:n1".to_owned(),
                setting,
                since_ms: 1_700_000_000_123,
                until_ms: 5,
                reason: "\"new disk\"\n".to_owned(),
                by: "ann".to_owned(),
            };
            assert_eq!(from_store(&to_store(&operator)), Some(operator));
        }
    }

    #[test]
    fn nodes_are_registered_as_soon_as_their_configuration_is_in_force() {
        let text =
            "backend_server_monitoring: {log: none, backend_servers: [{protocol: imap, host: a}],
          cluster: {redis: 'redis://127.0.0.1'}}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let after = |before: Option<&Arc<ActiveConfig>>| {
            let state = StartState::default();
            Arc::new(ActiveConfig::succeed(before, config.clone(), 1, true, state).unwrap())
        };
        let first = after(None);
        first.come_into_force(1, None);
        let active = after(Some(&first));
        let mut machine = Machine::of(&active);
        for in_force in [false, true] {
            if in_force {
                active.come_into_force(1, None);
            }
            assert!(machine.has_news(&active));
            assert_eq!(machine.registration(0).nodes.len(), usize::from(in_force));
            assert!(!machine.has_news(&active));
        }
    }

    #[test]
    fn the_part_that_differs_is_named() {
        let mine = "nodes:1 keys:2 rules:3";
        assert!(differing(mine, mine).is_empty());
        assert_eq!(
            differing(mine, "nodes:9 keys:2 rules:3"),
            ["nodes, pools or weights"]
        );
        assert_eq!(differing(mine, "").len(), 3);
    }
}
