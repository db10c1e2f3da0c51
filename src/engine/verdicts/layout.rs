//! Layout of the shared table: which word of the shared memory holds what.
//!
//! `docs/formats.md` describes the same layout: change both together, and raise [`VERSION`]. Every
//! number is a 64-bit word that is read and written atomically. The sections follow each other in
//! the order of this table. The kernel allocates a page when it is first written, so a section that
//! nothing has used takes no memory.
//!
//! | section | words |
//! |---|---|
//! | header | [`HEADER`] |
//! | counters | [`COUNTERS`], see `counters` |
//! | slots, one per target | [`SLOT`] each |
//! | latencies, one ring per slot | [`LATENCY_RING`] each |
//! | error texts, one per slot | [`ERROR_WORDS`] each |
//! | nodes, one for those that are not configured here, then as many as slots | [`NODE`] each |
//! | events | [`EVENTS`] times [`EVENT`] |
//! | operators' settings | [`OPERATORS`] times [`OPERATOR`] |
//! | remembered bindings | [`BINDINGS`] times [`BINDING`] |
//! | TLS details, one per slot | [`TLS_DETAILS`] each |

use crate::engine::tls_details::TLS_LINE_MAX;

/// The first word of every table: `nbtable` and a zero byte, as a big-endian number.
pub(super) const MAGIC: u64 = 0x6e62_7461_626c_6500;

/// Raised with every change of this file. Processes of two versions of this library never share one
/// table: only `fork` hands a table on, and an executed program makes its own. The number is for
/// tools that read the memory of a running process.
pub(super) const VERSION: u64 = 6;

// The header's words. The first two cache lines hold what readers load on each request. What the
// prober writes several times a second has cache lines of its own, so that its writes do not evict
// the readers' lines.
pub(super) const MAGIC_WORD: usize = 0;
pub(super) const VERSION_WORD: usize = 1;
/// The number of slots that fit. The start of every section follows from it, see [`Places`].
pub(super) const CAPACITY_WORD: usize = 2;
pub(super) const GENERATION: usize = 8;
pub(super) const SEQUENCE: usize = 9;
pub(super) const EPOCH: usize = 10;
pub(super) const USED: usize = 11;
/// Changes with the routing word of any target.
pub(super) const ROUTING: usize = 12;
pub(super) const WAKE: usize = 16;
/// The process that may write the slots, see `lease`.
pub(super) const LEASE: usize = 24;
/// When the holder of the lease last wrote its heartbeat, in `CLOCK_MONOTONIC` nanoseconds.
pub(super) const HEARTBEAT: usize = 25;
/// The number of the newest event, counted from 1. A writer raises it before it writes the event.
pub(super) const EVENTS_BEGUN: usize = 32;
/// The sequence number that guards the operators' settings.
pub(super) const OPERATORS_SEQUENCE: usize = 40;
pub(super) const OPERATORS_USED: usize = 41;
/// How many nodes have a place.
pub(super) const NODES_USED: usize = 48;
/// A random number that tells this table from others in the store that machines share.
pub(super) const TABLE_ID: usize = 56;
/// Whether the store is reachable: 0 unknown, 1 yes, 2 no.
pub(super) const STORE_STATE: usize = 57;
/// The highest generation of a binding that any process of this table has read.
pub(super) const BINDINGS_GENERATION: usize = 58;
/// When a process last found the store out of reach, in milliseconds of `CLOCK_MONOTONIC`.
pub(super) const STORE_DOWN: usize = 59;
/// The store's clock minus `CLOCK_BOOTTIME`, in microseconds, wrapping; 0: never measured.
pub(super) const STORE_CLOCK: usize = 60;
pub(super) const HEADER: usize = 64;

// A slot's words.
pub(super) const HASH: usize = 0;
pub(super) const SLOT_SEQUENCE: usize = 2;
pub(super) const CONNECT_HEALTH: usize = 3;
pub(super) const DEEP_HEALTH: usize = 4;
pub(super) const HAS_DEEP_HEALTH: usize = 5;
pub(super) const SINCE: usize = 6;
pub(super) const PROBES: usize = 7;
pub(super) const FAILURES: usize = 8;
pub(super) const CONNECT_STARTED: usize = 9;
pub(super) const DEEP_STARTED: usize = 10;
pub(super) const LATENCY: usize = 11;
pub(super) const FAMILY: usize = 12;
pub(super) const ADDRESS: usize = 13;
pub(super) const NOT_AFTER: usize = 15;
/// How many reports of trouble there were, see `reports`.
pub(super) const REPORTS: usize = 16;
/// When a report last woke the prober, in `CLOCK_MONOTONIC` nanoseconds.
pub(super) const REPORTED_AT: usize = 17;
/// Which of the reports a probe was begun for, and which of them were answered.
pub(super) const HANDLED_REPORTS: usize = 18;
pub(super) const CERTIFICATE_LOGGED: usize = 19;
pub(super) const ERROR_LENGTH: usize = 20;
/// How often the verdict has changed.
pub(super) const CHANGES: usize = 21;
/// How many probes were added to the latency ring.
pub(super) const LATENCIES_TOLD: usize = 22;
/// The verdict that routing goes by, see `routable`.
pub(super) const ROUTABLE: usize = 23;
/// The words of a slot: three whole cache lines, so that two slots never share one.
pub(super) const SLOT: usize = 24;

/// How many of a target's last probes are kept, two per word.
pub(super) const LATENCIES: usize = 60;
pub(super) const LATENCY_RING: usize = LATENCIES / 2;

/// The words of an error text. The texts follow all slots, so that their pages stay untouched until
/// a probe fails.
pub(super) const ERROR_WORDS: usize = 43;

/// The words of a node: hash of its name, sequence (guards the next four), when the store said so, users,
/// users moved in and out, free (2), moves that this machine has made by reason (5), free (3).
pub(super) const NODE: usize = 16;
pub(super) const NODE_NAME: usize = 0;
pub(super) const NODE_SEQUENCE: usize = 1;
pub(super) const NODE_AS_OF: usize = 2;
pub(super) const NODE_USERS: usize = 3;
pub(super) const NODE_MOVED_IN: usize = 4;
pub(super) const NODE_MOVED_OUT: usize = 5;
pub(super) const NODE_MOVES: usize = 8;

/// How many events the ring keeps.
pub(super) const EVENTS: usize = 1024;
/// The words of an event: sequence, time, kind, lengths, checksum, changes of the verdict, hash of
/// the subject, free, text (56).
pub(super) const EVENT: usize = 64;
pub(super) const EVENT_SEQUENCE: usize = 0;
pub(super) const EVENT_TIME: usize = 1;
pub(super) const EVENT_KIND: usize = 2;
pub(super) const EVENT_LENGTHS: usize = 3;
pub(super) const EVENT_CHECKSUM: usize = 4;
pub(super) const EVENT_CHANGES: usize = 5;
pub(super) const EVENT_SUBJECT: usize = 6;
pub(super) const EVENT_TEXT: usize = 8;
pub(super) const EVENT_TEXT_WORDS: usize = EVENT - EVENT_TEXT;

/// How many operators' settings fit.
pub(super) const OPERATORS: usize = 1024;
/// The words of a setting: value, since, until, lengths, free (4), text (88).
pub(super) const OPERATOR: usize = 96;
pub(super) const OPERATOR_VALUE: usize = 0;
pub(super) const OPERATOR_SINCE: usize = 1;
pub(super) const OPERATOR_UNTIL: usize = 2;
pub(super) const OPERATOR_LENGTHS: usize = 3;
pub(super) const OPERATOR_TEXT: usize = 8;
pub(super) const OPERATOR_TEXT_WORDS: usize = OPERATOR - OPERATOR_TEXT;

/// Bindings of users to nodes, kept for when the store does not answer or has lost its data. They
/// are in sets of [`BINDING_SET`]; the hash of the user's key selects the set.
pub(super) const BINDINGS: usize = 65_536;
pub(super) const BINDING_SET: usize = 8;
/// The words of a binding. Times are in microseconds since 1970 of the store's clock.
pub(super) const BINDING: usize = 12;
/// The hash of the user's key, two words; the first is 0 where the place is free.
pub(super) const BINDING_USER: usize = 0;
pub(super) const BINDING_SEQUENCE: usize = 2;
/// The digests of the names of two nodes: the user's node, and the one before; 0: none.
pub(super) const BINDING_NODE: usize = 3;
pub(super) const BINDING_FROM: usize = 4;
pub(super) const BINDING_SINCE: usize = 5;
pub(super) const BINDING_UNTIL: usize = 6;
pub(super) const BINDING_HELD: usize = 7;
pub(super) const BINDING_GENERATION: usize = 8;
/// When the binding was last written, in milliseconds of `CLOCK_MONOTONIC`.
pub(super) const BINDING_USED: usize = 9;
pub(super) const BINDING_CHECKSUM: usize = 10;
pub(super) const BINDING_REMAINS: usize = 11;

/// The words of what the last full TLS handshake showed: length in bytes, text. Written under the
/// slot's sequence number. At the end, so that its pages stay untouched without TLS.
pub(super) const TLS_DETAILS: usize = 1 + TLS_LINE_MAX.div_ceil(8);

// The counters' words.
/// Upper bounds of the histogram buckets, in microseconds. One more bucket takes what is longer.
pub const BUCKETS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 15_000_000,
];

/// The words of a histogram: 18 buckets, the sum in microseconds, the rest free.
pub(super) const HISTOGRAM: usize = 24;
pub(super) const HISTOGRAM_SUM: usize = BUCKETS_US.len() + 1;

/// How many protocols and stages fit. Stage 0 stands for the whole probe.
pub(super) const PROTOCOLS: usize = 8;
pub(super) const STAGES: usize = 16;
/// How many results fit, see [`super::ProbeResult`].
pub(super) const RESULTS: usize = 4;

/// How many ways of choosing a server fit: `select_backend_server`, and each `how` of `route`.
pub(super) const CHOICES: usize = 8;
pub(super) const LANES: usize = 64;

pub(super) const COUNTED_PROBES: usize = 0;
pub(super) const HISTOGRAMS: usize = COUNTED_PROBES + PROTOCOLS * STAGES * RESULTS;
pub(super) const SINGLE: usize = HISTOGRAMS + PROTOCOLS * STAGES * HISTOGRAM;
pub(super) const SINGLES: usize = 64;
/// The histogram of the store's answers, among the single counters.
pub(super) const STORE_HISTOGRAM: usize = SINGLE + SINGLES - HISTOGRAM;
pub(super) const SELECTIONS: usize = SINGLE + SINGLES;

/// The words of the counters section.
pub(super) const COUNTERS: usize = SELECTIONS + LANES * CHOICES;

/// Where the sections of a table begin, as indices of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub counters: usize,
    pub slots: usize,
    pub latencies: usize,
    pub errors: usize,
    pub nodes: usize,
    pub events: usize,
    pub operators: usize,
    pub bindings: usize,
    pub tls_details: usize,
    pub end: usize,
}

impl Places {
    /// `None` where the number of words overflows `usize`.
    pub(super) fn of(capacity: usize) -> Option<Self> {
        let mut end = HEADER;
        let mut place = |count: usize, each: usize| {
            let start = end;
            end = count
                .checked_mul(each)
                .and_then(|words| words.checked_add(start))?;
            Some(start)
        };
        Some(Self {
            counters: place(1, COUNTERS)?,
            slots: place(capacity, SLOT)?,
            latencies: place(capacity, LATENCY_RING)?,
            errors: place(capacity, ERROR_WORDS)?,
            nodes: place(capacity.checked_add(1)?, NODE)?,
            events: place(EVENTS, EVENT)?,
            operators: place(OPERATORS, OPERATOR)?,
            bindings: place(BINDINGS, BINDING)?,
            tls_details: place(capacity, TLS_DETAILS)?,
            end,
        })
    }
}
