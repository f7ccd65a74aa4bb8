#!/usr/bin/env bash
# Installs what tests/it/page.rs drives the web page with: Debian's Chromium with its driver, and axe-core from npm,
# which looks for faults that keep people out, into target/browser in the version that tests/browser names.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${CARGO_TARGET_DIR:-target}/browser"
case $into in /*) ;; *) into="$PWD/$into" ;; esac
wanted=$(cat tests/browser/package.json tests/browser/package-lock.json | sha256sum)

if ! { command -v chromedriver && command -v chromium; } >/dev/null; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing: chromium chromium-driver; install them as root: apt-get install chromium chromium-driver" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi
if [ "$(cat "$into/installed" 2>/dev/null)" = "$wanted" ]; then
    echo "axe-core is in $into"
    exit 0
fi
rm -rf "$into"
mkdir -p "$into"
# Debian's own node may be missing: the one that scripts/sdks.sh may have put beside the providers' packages serves as well.
command -v npm >/dev/null || PATH="$(dirname "$into")/sdks/python/bin:$PATH"
cp tests/browser/package.json tests/browser/package-lock.json "$into/"
npm ci --prefix "$into" --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
echo "$wanted" >"$into/installed"
echo "installed axe-core into $into"
