#!/usr/bin/env bash
# Measures Stagepost against nginx `proxy_pass` in one run on this machine and prints the ratios.
#
#   benches/compare.sh [SECONDS]        needs wrk, nginx, python3 and curl
#
# Load generator, upstream and the proxy under test share the cores. 64 connections, 8,192 distinct signed JSON bodies
# of about 1 KiB. nginx stores nothing; Stagepost verifies each signature and makes each event durable before it answers.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
rounds=${ROUNDS:-3}
binary=${STAGEPOST_BINARY:-target/release/stagepost}
[ -n "${STAGEPOST_BINARY:-}" ] || cargo build --release --quiet
binary=$(realpath "$binary")
work=$(mktemp -d "${BENCH_DIR:-target}/compare.XXXXXX")
work=$(realpath "$work")
secret=compare-secret

cleanup() {
    [ -f "$work/nginx.pid" ] && kill "$(cat "$work/nginx.pid")" 2>/dev/null || true
    [ -n "${relay:-}" ] && kill "$relay" 2>/dev/null && wait "$relay" 2>/dev/null || true
    [ "${KEEP:-}" ] || rm -rf "$work"
}
trap cleanup EXIT

python3 benches/requests.py "$work/post.lua" "$secret" /hooks/bench

cat > "$work/nginx.conf" <<EOF
worker_processes auto; daemon on; pid $work/nginx.pid; error_log $work/nginx.error;
events { worker_connections 4096; }
http {
    access_log off; client_max_body_size 20m; client_body_buffer_size 64k; keepalive_requests 1000000000;
    client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
    upstream up { server 127.0.0.1:19000; keepalive 128; keepalive_requests 1000000000; }
    server { listen 127.0.0.1:19000 backlog=4096; location / { return 200 "ok"; } }
    server { listen 127.0.0.1:19001 backlog=4096; location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
EOF
nginx -e "$work/nginx.error" -c "$work/nginx.conf" -p "$work"

config() { # ROUTE_TO
    cat > "$work/stagepost.toml" <<EOF
[[listen]]
address = "127.0.0.1:19002"
[store]
path = "$work/data"
[admin]
socket = "$work/admin.sock"
address = "127.0.0.1:19003"
[diagnostics]
level = "warn"
[source.bench]
path = "/hooks/bench"
verify = { scheme = "hmac", algorithm = "sha256", header = "X-Signature", encoding = "hex", secrets = ["env:BENCH_SECRET"] }
[[route]]
name = "bench"
source = "bench"
to = [$1]
[upstream.up]
url = "http://127.0.0.1:19000"
EOF
}
start() {
    rm -rf "$work/data"
    BENCH_SECRET=$secret "$binary" run --config "$work/stagepost.toml" & relay=$!
    until curl -sf -o "$work/ready" http://127.0.0.1:19003/readyz; do :; done
}
stop() { kill "$relay"; wait "$relay" || true; relay=; }
counter() { curl -sf http://127.0.0.1:19003/metrics | awk -v name="$1" 'index($1, name) == 1 { sum += $2 } END { printf "%d\n", sum }'; }
load() { wrk -t2 -c64 -d"${seconds}s" -s "$work/post.lua" --latency "$1" > "$work/wrk.out"; grep -E 'Non-2xx|Socket errors' "$work/wrk.out" >&2 || true; awk '/Requests\/sec/ { print $2 }' "$work/wrk.out"; }
latency() { awk '/ (50|99)%/ { printf "%s %s  ", $1, $2 }' "$work/wrk.out"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

for round in $(seq "$rounds"); do
    nginx_rate=$(load http://127.0.0.1:19001/hooks/bench); nginx_latency=$(latency)

    config ''; start
    ack_rate=$(load http://127.0.0.1:19002/hooks/bench); ack_latency=$(latency)
    stop

    config '"up"'; start
    begun=$(date +%s.%N)
    load http://127.0.0.1:19002/hooks/bench > "$work/accept_rate"
    accepted=$(counter 'stagepost_requests_total{source="bench",result="accepted"}')
    # A pause between two looks: they would take the cores from what is measured.
    until [ "$(counter 'stagepost_attempts_total{upstream="up",outcome="delivered"}')" -ge "$accepted" ]; do sleep 0.05; done
    ended=$(date +%s.%N)
    both_rate=$(awk -v n="$accepted" -v a="$begun" -v b="$ended" 'BEGIN { printf "%.0f", n / (b - a) }')
    stop

    echo "round $round"
    echo "  nginx proxy_pass              $nginx_rate requests/s  ($nginx_latency)"
    echo "  durable verified acks         $ack_rate requests/s  ($ack_latency)  ratio $(ratio "$ack_rate" "$nginx_rate")"
    echo "  stored and delivered          $both_rate events/s (accepted at $(cat "$work/accept_rate")/s)  ratio $(ratio "$both_rate" "$nginx_rate")"
done
