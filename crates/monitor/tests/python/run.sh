#!/bin/sh
# Runs qmp_client.py against a monitor whose machine exists in memory only, in a virtual environment of its own.
# usage: run.sh [TOY_MACHINE]   (the built example; built here if it is not given)
set -eu
here=$(dirname "$(realpath "$0")")
scratch=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT INT TERM

toy=${1:-}
if [ -z "$toy" ]; then
    (cd "$here" && cargo build --quiet -p whimbrel-monitor --example toy_machine)
    target=${CARGO_TARGET_DIR:-$(cd "$here" && cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')}
    toy=$target/debug/examples/toy_machine
fi
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check qemu.qmp==0.0.6

"$toy" "$scratch/qmp" &
server=$!
tries=0
until [ -S "$scratch/qmp" ]; do
    tries=$((tries + 1))
    test "$tries" -lt 200 || { echo "the toy machine does not listen" >&2; exit 1; }
    sleep 0.05
done
timeout 120 "$scratch/venv/bin/python" "$here/qmp_client.py" "$scratch/qmp" --migrate-to tcp:127.0.0.1:4444 --quit
wait "$server"
server=
