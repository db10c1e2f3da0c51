//! Layout of the shared table: which word of the shared memory holds what.
//!
//! `docs/formats.md` describes the same for people; both change together, with [`VERSION`].
//! Every number is a 64-bit word that is read and written atomically. The sections lie one
//! behind the other; memory that nothing touches takes no room, so that a bounded area costs
//! nothing before it is used.
//!
//! | section | words |
//! |---|---|
//! | header | [`HEADER`] |
//! | counters | [`COUNTERS`], see `counters` |
//! | slots, one per target | [`SLOT`] each |
//! | latencies, one ring per slot | [`LATENCY_RING`] each |
//! | error texts, one per slot | [`ERROR_WORDS`] each |
//! | nodes, as many as slots | [`NODE`] each |
//! | events | [`EVENTS`] times [`EVENT`] |
//! | operators' settings | [`OPERATORS`] times [`OPERATOR`] |
//! | remembered bindings | [`BINDINGS`] times [`BINDING`] |

/// The first word of every table: `nbtable` and a zero byte, as a big-endian number.
pub(super) const MAGIC: u64 = 0x6e62_7461_626c_6500;

/// Raised with every change of this file. Processes of two versions of this library never share
/// one table: a table is handed on by `fork` alone, and an executed program makes its own. The
/// number is for tools that look at the memory of a running process, and for a check at start.
pub(super) const VERSION: u64 = 2;

// The header's words. The first cache lines hold what readers ask for with each request; what
// the prober writes several times a second lies in lines of its own.
pub(super) const MAGIC_WORD: usize = 0;
pub(super) const VERSION_WORD: usize = 1;
/// How many slots there is room for: the places of all sections follow from it.
pub(super) const CAPACITY_WORD: usize = 2;
pub(super) const GENERATION: usize = 8;
pub(super) const SEQUENCE: usize = 9;
pub(super) const EPOCH: usize = 10;
pub(super) const USED: usize = 11;
pub(super) const WAKE: usize = 16;
/// Who writes the slots, see `lease`.
pub(super) const LEASE: usize = 24;
/// When the holder of the lease last said that it runs, in `CLOCK_MONOTONIC` nanoseconds.
pub(super) const HEARTBEAT: usize = 25;
/// How many events were begun; the number of the last one.
pub(super) const EVENTS_BEGUN: usize = 32;
/// Sequence of the operators' settings.
pub(super) const OPERATORS_SEQUENCE: usize = 40;
pub(super) const OPERATORS_USED: usize = 41;
/// For the parts that come: nodes in use, and a clock for bindings.
#[expect(dead_code, reason = "reserved so that the layout stays as it is")]
pub(super) const NODES_USED: usize = 48;
#[expect(dead_code, reason = "reserved so that the layout stays as it is")]
pub(super) const BINDINGS_HAND: usize = 56;
pub(super) const HEADER: usize = 64;

// A slot's words.
pub(super) const HASH: usize = 0;
pub(super) const SLOT_SEQUENCE: usize = 2;
pub(super) const CONNECT_GATE: usize = 3;
pub(super) const DEEP_GATE: usize = 4;
pub(super) const HAS_DEEP_GATE: usize = 5;
pub(super) const SINCE: usize = 6;
pub(super) const PROBES: usize = 7;
pub(super) const FAILURES: usize = 8;
pub(super) const CONNECT_STARTED: usize = 9;
pub(super) const DEEP_STARTED: usize = 10;
pub(super) const LATENCY: usize = 11;
pub(super) const FAMILY: usize = 12;
pub(super) const ADDRESS: usize = 13;
pub(super) const NOT_AFTER: usize = 15;
pub(super) const REPORTS: usize = 16;
pub(super) const REPORTED_AT: usize = 17;
pub(super) const HEEDED: usize = 18;
pub(super) const CERTIFICATE_LOGGED: usize = 19;
pub(super) const ERROR_LENGTH: usize = 20;
/// How often the verdict has changed.
pub(super) const CHANGES: usize = 21;
/// How many probes the latency ring was told of.
pub(super) const LATENCIES_TOLD: usize = 22;
/// What routing makes of the verdicts, see `routable`.
pub(super) const ROUTABLE: usize = 23;
/// Whole cache lines.
pub(super) const SLOT: usize = 24;

/// The last probes of a target, two to a word.
pub(super) const LATENCIES: usize = 60;
pub(super) const LATENCY_RING: usize = LATENCIES / 2;

/// The words of an error's text, which come behind all slots: where no probe ever failed
/// nothing touches them.
pub(super) const ERROR_WORDS: usize = 43;

/// Of a node's verdict: hash (2), sequence, usable, since, last change of its condition, moved
/// in, moved out, and room.
pub(super) const NODE: usize = 16;

/// Events that are kept.
pub(super) const EVENTS: usize = 1024;
/// Of an event: sequence, time, kind, lengths, checksum, room (3), text (56).
pub(super) const EVENT: usize = 64;
pub(super) const EVENT_SEQUENCE: usize = 0;
pub(super) const EVENT_TIME: usize = 1;
pub(super) const EVENT_KIND: usize = 2;
pub(super) const EVENT_LENGTHS: usize = 3;
pub(super) const EVENT_CHECKSUM: usize = 4;
pub(super) const EVENT_TEXT: usize = 8;
pub(super) const EVENT_TEXT_WORDS: usize = EVENT - EVENT_TEXT;

/// Settings of operators that there is room for.
pub(super) const OPERATORS: usize = 1024;
/// Of a setting: value, since, until, lengths, room (4), text (88).
pub(super) const OPERATOR: usize = 96;
pub(super) const OPERATOR_VALUE: usize = 0;
pub(super) const OPERATOR_SINCE: usize = 1;
pub(super) const OPERATOR_UNTIL: usize = 2;
pub(super) const OPERATOR_LENGTHS: usize = 3;
pub(super) const OPERATOR_TEXT: usize = 8;
pub(super) const OPERATOR_TEXT_WORDS: usize = OPERATOR - OPERATOR_TEXT;

/// Bindings that are remembered for a store that does not answer.
pub(super) const BINDINGS: usize = 65_536;
/// Of a binding: the key's hash (2), node, since, until, generation, sequence, last use.
pub(super) const BINDING: usize = 8;

// The counters' words.
/// Upper bounds of the buckets, in microseconds; what is longer goes to a last one.
pub const BUCKETS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 15_000_000,
];

/// Of a histogram: the buckets with the last one, the sum in microseconds, and room.
pub(super) const HISTOGRAM: usize = 24;
pub(super) const HISTOGRAM_SUM: usize = BUCKETS_US.len() + 1;

/// Protocols and stages that there is room for. The first stage stands for the whole probe.
pub(super) const PROTOCOLS: usize = 8;
pub(super) const STAGES: usize = 16;
/// What became of a probe: see [`ProbeResult`].
pub(super) const RESULTS: usize = 4;

/// How a selection of a server came about: room for `select_backend_server` and each `how` of
/// `route`.
pub(super) const CHOICES: usize = 8;
pub(super) const LANES: usize = 64;

pub(super) const COUNTED_PROBES: usize = 0;
pub(super) const HISTOGRAMS: usize = COUNTED_PROBES + PROTOCOLS * STAGES * RESULTS;
pub(super) const SINGLE: usize = HISTOGRAMS + PROTOCOLS * STAGES * HISTOGRAM;
pub(super) const SINGLES: usize = 64;
pub(super) const SELECTIONS: usize = SINGLE + SINGLES;

/// All words of this section.
pub(super) const COUNTERS: usize = SELECTIONS + LANES * CHOICES;

/// Where the sections of a table with so many slots begin, in words.
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
    pub end: usize,
}

impl Places {
    /// None where so many words cannot be counted.
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
            nodes: place(capacity, NODE)?,
            events: place(EVENTS, EVENT)?,
            operators: place(OPERATORS, OPERATOR)?,
            bindings: place(BINDINGS, BINDING)?,
            end,
        })
    }
}
