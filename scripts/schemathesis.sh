#!/usr/bin/env bash
# Installs schemathesis, which tests/it/api_schema.rs asks the admin API with: into target/schemathesis, in the versions
# that tests/api names. Needs python3 with venv; does nothing if it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
into="${CARGO_TARGET_DIR:-target}/schemathesis"
case $into in /*) ;; *) into="$PWD/$into" ;; esac
wanted=$(sha256sum <tests/api/requirements.txt)

if [ "$(cat "$into/installed" 2>/dev/null)" = "$wanted" ]; then
    echo "schemathesis is in $into"
    exit 0
fi
rm -rf "$into"
python3 -m venv "$into"
"$into/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps --requirement tests/api/requirements.txt
echo "$wanted" >"$into/installed"
echo "installed schemathesis into $into"
