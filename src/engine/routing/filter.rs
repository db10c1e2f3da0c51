//! Which servers a caller accepts: fields that must be equal, and pools in order of preference.

use crate::engine::config::nearest;
use crate::engine::target::Target;
use crate::engine::verdicts::OperatorState;

/// A field of a server object that a filter can compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerField {
    Ip,
    Host,
    Port,
    Protocol,
    HaproxyV2,
    Tls,
    TlsMode,
    TlsSkipVerify,
    DeepCheck,
    RequestUri,
    Node,
    Weight,
    State,
}

impl ServerField {
    pub const ALL: [Self; 13] = [
        Self::Ip,
        Self::Host,
        Self::Port,
        Self::Protocol,
        Self::HaproxyV2,
        Self::Tls,
        Self::TlsMode,
        Self::TlsSkipVerify,
        Self::DeepCheck,
        Self::RequestUri,
        Self::Node,
        Self::Weight,
        Self::State,
    ];

    /// The field's name in a server object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Host => "host",
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::HaproxyV2 => "haproxy_v2",
            Self::Tls => "tls",
            Self::TlsMode => "tls_mode",
            Self::TlsSkipVerify => "tls_skip_verify",
            Self::DeepCheck => "deep_check",
            Self::RequestUri => "request_uri",
            Self::Node => "node",
            Self::Weight => "weight",
            Self::State => "state",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// The type of the field's values.
    pub fn kind(self) -> FieldKind {
        match self {
            Self::Port | Self::Weight => FieldKind::Number,
            Self::HaproxyV2 | Self::Tls | Self::TlsSkipVerify | Self::DeepCheck => FieldKind::Flag,
            _ => FieldKind::Text,
        }
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    Text,
    Number,
    Flag,
}

/// A value that a field must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    Text(Box<str>),
    Number(u16),
    Flag(bool),
}

/// The key of filters that selects pools and is no field of a server to compare.
pub const POOL: &str = "pool";

/// The error for a key of a filter that is neither a field nor [`POOL`].
pub fn unknown_field(name: &str) -> String {
    let known = ServerField::ALL.into_iter().map(ServerField::name);
    let hint = nearest(name, known.chain([POOL]))
        .map_or_else(String::new, |known| format!("; did you mean {known}?"));
    format!("{name}: unknown field{hint}")
}

/// Which servers a caller accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Fields that must have these values.
    pub fields: Vec<(ServerField, FieldValue)>,
    /// Pools in order of preference: the first one with a usable node is taken. `None`: the pool
    /// without a name.
    pub pools: Option<Vec<Box<str>>>,
}

impl Filter {
    /// Adds a key and its value as text. A pool is added to those before it.
    ///
    /// # Errors
    /// What is wrong with the key or the value.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<(), String> {
        if name == POOL {
            self.pools.get_or_insert_default().push(text.into());
            return Ok(());
        }
        let field = ServerField::from_name(name).ok_or_else(|| unknown_field(name))?;
        let value = match field.kind() {
            FieldKind::Text => Some(FieldValue::Text(text.into())),
            FieldKind::Number => text.parse().ok().map(FieldValue::Number),
            FieldKind::Flag => text.parse().ok().map(FieldValue::Flag),
        };
        let expected = match field.kind() {
            FieldKind::Text => "text",
            FieldKind::Number => "integer 0..65535",
            FieldKind::Flag => "true or false",
        };
        let value = value.ok_or_else(|| format!("{name}: {expected} expected, got {text:?}"))?;
        self.fields.push((field, value));
        Ok(())
    }

    /// Whether the server object of a target has all of these values.
    pub(super) fn matches(&self, target: &Target, shown: &impl ShownFields) -> bool {
        self.fields.iter().all(|(field, wanted)| match wanted {
            FieldValue::Flag(wanted) => flag(*field, target) == Some(*wanted),
            FieldValue::Number(wanted) => match field {
                ServerField::Port => target.port == *wanted,
                ServerField::Weight => shown.weight() == *wanted,
                _ => false,
            },
            FieldValue::Text(wanted) => match field {
                ServerField::Ip => shown.ip() == **wanted,
                ServerField::State => shown.state().name() == &**wanted,
                ServerField::Host => target.host.to_string() == **wanted,
                ServerField::Protocol => target.protocol.name() == &**wanted,
                ServerField::TlsMode => target.tls_mode.name() == &**wanted,
                ServerField::RequestUri => target.request_uri == **wanted,
                ServerField::Node => target.node() == **wanted,
                _ => false,
            },
        })
    }
}

fn flag(field: ServerField, target: &Target) -> Option<bool> {
    match field {
        ServerField::HaproxyV2 => Some(target.haproxy_v2),
        ServerField::Tls => Some(target.implicit_tls()),
        ServerField::TlsSkipVerify => Some(target.tls_skip_verify),
        ServerField::DeepCheck => Some(target.deep_check),
        _ => None,
    }
}

/// The fields of a server object that are not configured. Each is only read where a filter compares it.
pub(super) trait ShownFields {
    fn ip(&self) -> String;
    /// The weight in force of the target's node.
    fn weight(&self) -> u16;
    fn state(&self) -> OperatorState;
}
