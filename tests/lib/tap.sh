# Functions for suites written in bash. A suite sources this file, which also changes to the project's root.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

LUAS="lua5.1 lua5.2 lua5.3 lua5.4 luajit"

# use_lua55: builds Lua 5.5, which Debian does not have, and makes it a Lua as the others are: an
# interpreter in PATH and a package of pkg-config.
use_lua55() {
    local dist
    dist=$(tests/lua5.5/build) || { echo "not ok - Lua 5.5 was not built"; exit 1; }
    export PATH=$dist/bin:$PATH PKG_CONFIG_PATH=$dist/pkgconfig
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tap_failures=0

# check NAME COMMAND… : passes when the command succeeds; shows its output when it does not.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name ($?: $*)"
        sed 's/^/# /' "$scratch/output" | tail -n 100
        tap_failures=$((tap_failures + 1))
    fi
}

# cargo_tests ARGUMENTS… : runs `cargo test`, with a line for each of its tests. Those it ignores
# are another suite's. A program with a failure does not keep the others from being run.
cargo_tests() {
    cargo test --locked --no-fail-fast "$@" 2>&1 | awk '
        /^test .* \.\.\. / {
            name = $0; sub(/^test /, "", name); sub(/ \.\.\. .*/, "", name)
            if (/ \.\.\. ok/) print "ok - " name
            else if (!/ \.\.\. ignored/) print "not ok - " name
            next
        }
        { print "# " $0 }'
    check "cargo test $*" test "${PIPESTATUS[0]}" -eq 0
}

# The last command of a suite.
finish() {
    exit $((tap_failures > 0))
}
