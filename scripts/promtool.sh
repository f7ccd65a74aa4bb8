#!/usr/bin/env bash
# Puts promtool, which tests/it/monitoring.rs checks metrics and alert rules with, into target/promtool: out of Debian's
# package, without installing it (that would start a server). Does nothing if promtool is there already, or on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${CARGO_TARGET_DIR:-target}/promtool"
if command -v promtool >/dev/null; then
    echo "promtool is $(command -v promtool)"
    exit 0
fi
if [ -x "$into/usr/bin/promtool" ]; then
    echo "promtool is in $into"
    exit 0
fi
mkdir -p "$into"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
download() { (cd "$work" && apt-get download -qq prometheus); }
download 2>/dev/null || {
    # The list of packages is missing or old.
    if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
    download
}
dpkg-deb -x "$work"/prometheus_*.deb "$work/x"
mkdir -p "$into/usr/bin"
cp "$work/x/usr/bin/promtool" "$into/usr/bin/"
echo "put promtool into $into"
