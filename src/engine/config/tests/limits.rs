//! Hostile texts: reading each ends soon, with an error and without much memory.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{Config, ConfigError, MAX_BYTES};

/// Far above what any text takes (a debug build reads 1 MiB in about a second, measured), and far
/// below what one takes whose work grows with the square of its length.
const SOON: Duration = Duration::from_secs(30);

fn env(name: &str) -> Option<OsString> {
    (name == "LONG").then(|| "x".repeat(100_000).into())
}

fn read(text: &str) -> Result<Config, ConfigError> {
    let started = Instant::now();
    let result = Config::from_yaml(text, &env);
    let took = started.elapsed();
    let start: String = text.chars().take(80).collect();
    assert!(took < SOON, "{took:?} for {start:?}");
    result
}

fn problem(text: &str) -> String {
    match read(text) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    }
}

const OURS: &str = "backend_server_monitoring: {targets: []}\n";

/// Ten levels, each ten times the one before: 10^10 values.
fn bomb() -> String {
    let mut text = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = vec![format!("*l{}", level - 1); 10].join(", ");
        text.push_str(&format!("l{level}: &l{level} [{below}]\n"));
    }
    text
}

#[test]
fn an_alias_bomb_ends_with_an_error() {
    let expected =
        "line 6: more than 500000 values; what an alias stands for counts at each place".to_owned();
    assert_eq!(problem(&format!("{}{OURS}", bomb())), expected);
    // The same in our section.
    let ours = format!(
        "backend_server_monitoring:\n  targets:\n    {}",
        bomb().trim_end().replace('\n', "\n    ")
    );
    assert!(problem(&ours).contains("more than 500000 values"));
}

#[test]
fn a_bomb_of_text_ends_with_an_error() {
    let long = "x".repeat(500_000);
    let aliases = "*a,".repeat(100_000);
    let text =
        format!("a: &a {long}\nbackend_server_monitoring: {{expose_attributes: [{aliases}]}}\n");
    let error = problem(&text);
    assert!(
        error.ends_with("section of at most 4194304 bytes expected, got more"),
        "{error}"
    );
    // Digits are read anew for each alias, and give no text.
    let digits = "1".repeat(500_000);
    let text =
        format!("a: &a {digits}\nbackend_server_monitoring: {{expose_attributes: [{aliases}]}}\n");
    assert!(problem(&text).ends_with("section of at most 4194304 bytes expected, got more"));
    // Servers are converted one at a time, and what all of them take is counted.
    let server = "{protocol: imap, host: h, tls_ca_file: *a},";
    let servers = server.repeat(20);
    let text = format!("a: &a {long}\nbackend_server_monitoring: {{targets: [{servers}]}}\n");
    let error = problem(&text);
    assert!(
        error.ends_with(
            "targets[9].tls_ca_file: section of at most 4194304 bytes expected, got more"
        ),
        "{error}"
    );
    // A value that can be no server is refused before the next one is converted.
    let text = format!("a: &a {long}\nbackend_server_monitoring: {{targets: [{aliases}]}}\n");
    assert!(problem(&text).contains("targets[1]: table expected, got string"));
    let variables = "${LONG}".repeat(100_000);
    let text = format!("backend_server_monitoring: {{targets: '{variables}'}}\n");
    assert!(problem(&text).contains("more bytes expected from the environment"));
}

#[test]
fn a_bomb_of_merges_ends_with_an_error() {
    let keys: String = (0..40_000).map(|i| format!("k{i}: ,")).collect();
    let merges = "- <<: *m\n".repeat(60_000);
    let text = format!("m: &m {{{keys}}}\nx:\n{merges}{OURS}");
    assert!(problem(&text).contains("more than 500000 values"));
    // Merged tables that have nothing new cost time only.
    let merges = "*m,".repeat(200_000);
    let text = format!("m: &m {{{keys}}}\nx: {{<<: [{merges}]}}\n{OURS}");
    assert!(problem(&text).contains("more than 500000 values"));
}

/// How long texts of one length take to read that use a key of `short` and of `long` bytes: the
/// shortest of a few turns, so that other work on the machine counts little.
fn key_times(short: usize, long: usize, uses: &str) -> [Duration; 2] {
    let mut times = [Duration::MAX; 2];
    for _ in 0..3 {
        for (time, length) in times.iter_mut().zip([short, long]) {
            // Not ASCII: the parser reads ASCII many times as fast, which would hide the difference.
            let (key, rest) = ("é".repeat(length / 2), "é".repeat((long - length) / 2));
            let text = format!("k: &k {key}\nrest: '{rest}'\nx:\n{uses}{OURS}");
            let started = Instant::now();
            assert_eq!(read(&text).map(|config| config.targets.len()), Ok(0));
            *time = started.elapsed().min(*time);
        }
    }
    times
}

#[test]
fn long_keys_are_not_read_again_for_each_use() {
    let (barely_long, long) = (1_026, 400_000);
    for unit in ["- *k : 1\n", "  *k :\n"] {
        let [before, after] = key_times(barely_long, long, &unit.repeat(20_000));
        // Measured: equal times; 50 times as long if each use reads the whole key.
        assert!(after < before * 4, "{unit:?}: {before:?}, then {after:?}");
    }
    let key = "k".repeat(long);
    let uses = "  - *k : 1\n".repeat(50_000);
    let text = format!("k: &k {key}\nbackend_server_monitoring:\n  targets:\n{uses}");
    assert!(problem(&text).ends_with("targets[1]: key of at most 1024 bytes expected, got more"));
}

#[test]
fn a_key_that_is_given_very_often_is_found_soon() {
    let keys: String = (0..60_000).map(|n| format!("  k{n:x}:\n")).collect();
    // 30,000 comparisons with 60,000 keys would take a quarter of an hour in a debug build.
    let text = format!("{OURS}x:\n{keys}{}", "  kea5f:\n".repeat(30_000));
    assert_eq!(problem(&text), "line 60003: kea5f: given twice");
}

#[test]
fn a_long_tag_directive_is_refused() {
    let prefix = "x".repeat(500_000);
    let uses = "- !p!a b\n".repeat(50_000);
    let text = format!("%TAG !p! {prefix}\n---\nx:\n{uses}{OURS}");
    assert_eq!(
        problem(&text),
        "line 1: %TAG of at most 512 bytes expected, got more"
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| format!("{OURS}x: {}{}\n", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&nested(63)).is_ok());
    assert_eq!(problem(&nested(64)), "line 2: nested deeper than 64 levels");
    assert!(problem(&nested(MAX_BYTES / 2 - 100)).starts_with("line 2: "));
    let blocks = "- ".repeat(MAX_BYTES / 2 - 100);
    assert!(problem(&format!("{blocks}x")).contains("nested deeper than 64 levels"));
    let keys: String = (0..1_000)
        .map(|level| format!("{}k:\n", " ".repeat(level)))
        .collect();
    assert!(problem(&keys).contains("nested deeper than 64 levels"));
    // Aliases nest where the text does not.
    let mut text = String::from("a0: &a0 []\n");
    for level in 1..70 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert_eq!(
        problem(&format!("{text}{OURS}")),
        "line 65: nested deeper than 64 levels"
    );
}

#[test]
fn the_length_is_bounded() {
    let fill = MAX_BYTES - OURS.len() - 1;
    let longest = format!("{OURS}#{}", "x".repeat(fill));
    assert_eq!(longest.len(), MAX_BYTES);
    assert!(read(&longest).is_ok());
    assert_eq!(
        problem(&format!("{longest}x")),
        "at most 1 MiB expected, got more"
    );
}

/// Repeats pieces of text that make a scanner read far back or far ahead.
#[test]
fn repetitions_of_one_thing_end_soon() {
    // Large enough for anything quadratic to take minutes.
    const SIZE: usize = MAX_BYTES / 8;
    for unit in [
        "a: b\n",
        "- ",
        "-\n",
        "? ",
        "? a\n",
        ": ",
        ":\n",
        "[",
        "]",
        "{",
        "}",
        "[]",
        "{},",
        "[a,",
        "{a: ",
        "a:\n ",
        "\"",
        "'",
        "\"\\x41",
        "''",
        "\\",
        "|\n",
        "|\n ",
        ">\n\n",
        "# c\n",
        "#",
        "&a ",
        "&a\n",
        "*a ",
        "!",
        "!a ",
        "!!str ",
        "%",
        "%TAG ! a\n",
        "---\n",
        "...\n",
        "--- a\n",
        "\n",
        "\r",
        "\t",
        " ",
        "a ",
        "a\n",
        "a",
        "~",
        "<<: {}\n",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "é",
        "\0",
        ",",
        "@",
        "`",
        "- - a\n",
        "- a: b\n",
        "a: [b, c]\n",
        "a: 'b'\n",
        "a: \"b\"\n",
        "a: |\n  b\n",
        "[[a]: b]\n",
        "? - a\n: - b\n",
        "{? a : b}\n",
        "${A}",
        "0",
        "1e",
        ".5",
    ] {
        let count = SIZE / unit.len();
        let _ = read(&unit.repeat(count));
        // The same within our section, and within brackets.
        let _ = read(&format!(
            "backend_server_monitoring: {}",
            unit.repeat(count)
        ));
        let _ = read(&format!(
            "backend_server_monitoring: [{}]",
            unit.repeat(count)
        ));
    }
}

#[test]
fn as_many_targets_as_fit_are_read() {
    let target = "- {protocol: imap, host: a.example, port: 993, tls: true}\n";
    let count = 15_000;
    let text = format!(
        "backend_server_monitoring:\n  targets:\n{}",
        format!("    {target}").repeat(count)
    );
    let config = read(&text);
    assert_eq!(config.map(|config| config.targets.len()), Ok(count));
}

/// Pieces that make up YAML, ours above all.
const PIECES: &[&str] = &[
    "backend_server_monitoring:",
    "auth:\n  services:\n    backend_health_checks:",
    "targets:",
    "backend_servers:",
    "protocol: imap",
    "host: a.example",
    "port: ${PORT}",
    "connect_timeout: 5s",
    "\n",
    "\n  ",
    "\n    - ",
    "- ",
    "? ",
    ": ",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "!x ",
    "%TAG ",
    "---\n",
    "...\n",
    "#",
    "\t",
    "\r",
    "${",
    "}",
    "~",
    "\u{feff}",
    "é",
    "\0",
];

fn yaml_like() -> impl Strategy<Value = String> {
    prop::collection::vec(0..PIECES.len(), 0..60)
        .prop_map(|pieces| pieces.into_iter().map(|piece| PIECES[piece]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,400}") {
        let _ = read(&text);
    }

    #[test]
    fn nothing_like_yaml_makes_it_panic(text in yaml_like()) {
        if let Err(error) = read(&text) {
            let error = error.to_string();
            prop_assert!(!error.is_empty() && !error.contains(['\n', '\r', '\0']), "{error:?}");
        }
    }

    #[test]
    fn no_value_of_a_known_key_makes_it_panic(key in 0_usize..17, value in "(?s).{0,60}") {
        let keys = super::super::SERVICE_KEYS;
        let entry = (keys[key % keys.len()].name.to_owned(), super::Value::Str(value));
        let _ = Config::from_value(&super::Value::Map(vec![entry]));
    }
}
