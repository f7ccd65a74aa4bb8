#!/usr/bin/env bash
# Everything that must pass: format, lints, tests, documentation. Needs Rust; installs what else is missing (Debian).
#
#   scripts/test.sh            the long forms of the crash and simulation tests: see CONTRIBUTING.md
set -euo pipefail
cd "$(dirname "$0")/.."

heading() {
    printf '\n==> %s\n' "$*"
}

# Installs Debian packages, or says which are missing.
install() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing: $*; install them as root: apt-get install $*" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

heading "what the tests need"
missing=()
# The C parts of ring, zstd and mimalloc; every Rust program is linked by cc.
command -v cc >/dev/null || missing+=(gcc)
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
# Upstreams with https:// and no authority of their own are checked against the machine's.
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
# The providers' own packages, which presets are checked with, and schemathesis for the admin API.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
if ! command -v cargo >/dev/null; then
    echo "missing: cargo; install Rust 1.90 or later, then run this again" >&2
    exit 1
fi
for part in fmt clippy; do
    if ! cargo "$part" --version >/dev/null 2>&1; then
        case $part in fmt) component=rustfmt ;; *) component=$part ;; esac
        rustup component add "$component"
    fi
done
cargo --version
scripts/sdks.sh
scripts/promtool.sh
scripts/schemathesis.sh
scripts/browser.sh

heading "format"
cargo fmt --check

heading "lints (benches are compiled here, not run)"
cargo clippy --locked --all-targets -- -D warnings

heading "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast
else
    cargo test --locked --no-fail-fast --lib --tests
fi

heading "examples in the documentation of the code"
cargo test --locked --doc

heading "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

printf '\nall checks passed in %d min %d s: format, lints, tests, documentation\n' $((SECONDS / 60)) $((SECONDS % 60))
