//! The fuzz targets: what each does with an input, where to begin, what belongs in it.
//!
//! A new target is a function of bytes that panics where a promise is broken, an entry in
//! [`TARGETS`], and a file of three lines in `fuzz_targets`. The same functions are driven by
//! cargo-fuzz, by `src/bin/drive.rs` with a stable toolchain, and shortly by `cargo test`.

pub mod configuration;
pub mod dialogue;
pub mod mutate;
pub mod state;

/// One thing to fuzz.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that reach far; mutations start from them.
    pub seeds: &'static [&'static [u8]],
    /// Words of the input's language.
    pub words: &'static [&'static str],
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "imap",
        run: dialogue::imap,
        seeds: dialogue::IMAP,
        words: dialogue::WORDS,
    },
    Target {
        name: "pop3",
        run: dialogue::pop3,
        seeds: dialogue::POP3,
        words: dialogue::WORDS,
    },
    Target {
        name: "smtp",
        run: dialogue::smtp,
        seeds: dialogue::SMTP,
        words: dialogue::WORDS,
    },
    Target {
        name: "lmtp",
        run: dialogue::lmtp,
        seeds: dialogue::SMTP,
        words: dialogue::WORDS,
    },
    Target {
        name: "sieve",
        run: dialogue::sieve,
        seeds: dialogue::SIEVE,
        words: dialogue::WORDS,
    },
    Target {
        name: "http",
        run: dialogue::http,
        seeds: dialogue::HTTP,
        words: dialogue::WORDS,
    },
    Target {
        name: "lines",
        run: dialogue::lines,
        seeds: dialogue::LINES,
        words: dialogue::WORDS,
    },
    Target {
        name: "yaml",
        run: configuration::yaml,
        seeds: configuration::YAML,
        words: configuration::YAML_WORDS,
    },
    Target {
        name: "state",
        run: state::state,
        seeds: state::STATE,
        words: state::STATE_WORDS,
    },
];

pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs the target of that name once.
pub fn run(name: &str, data: &[u8]) {
    (find(name).expect("a target of that name").run)(data);
}
