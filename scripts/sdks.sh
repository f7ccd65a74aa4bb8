#!/usr/bin/env bash
# Installs the providers' own packages that tests/it/sdk.rs checks presets with: into target/sdks, in the versions that
# tests/sdk names. Needs python3 with venv, and node 20 or later with npm; does nothing if they are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${CARGO_TARGET_DIR:-target}/sdks"
wanted=$(cat tests/sdk/requirements.txt tests/sdk/package.json tests/sdk/package-lock.json | sha256sum)

if [ "$(cat "$into/installed" 2>/dev/null)" = "$wanted" ]; then
    echo "the providers' packages are in $into"
    exit 0
fi
if ! node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)'; then
    echo "missing: node 20 or later" >&2
    exit 1
fi

rm -rf "$into"
mkdir -p "$into/node"
python3 -m venv "$into/python"
"$into/python/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps --requirement tests/sdk/requirements.txt
cp tests/sdk/package.json tests/sdk/package-lock.json "$into/node/"
npm ci --prefix "$into/node" --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
echo "$wanted" >"$into/installed"
echo "installed the providers' packages into $into"
