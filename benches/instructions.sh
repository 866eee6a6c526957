#!/usr/bin/env bash
# Counts the instructions of small runs and compares them with the record: a
# machine's load moves seconds, but not these.
#
# usage: benches/instructions.sh [--record]
#
# Fails if a run takes more than 5 % more instructions than benches/instructions.txt
# says; --record writes the file anew. Skipped, saying so, where valgrind is absent.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
record=benches/instructions.txt
most_percent=5
# Name of a run, experiment, and what is changed in it.
runs=(
    "vllm-round-robin|benches/small.toml|--set router.policy=round_robin"
    "vllm-kv|benches/small.toml|--set router.policy=kv"
    "trtllm-kv|benches/grid-441.toml|--set router.overlap_weight=1.0 --set router.temperature=0.0"
)

if ! command -v valgrind >/dev/null; then
    echo "instructions: skipped, valgrind is not installed" >&2
    exit 0
fi
cd "$root"
cargo build --quiet --release
# Wherever the settings of this machine put it.
target=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The environment is on the stack, so it is emptied: its size moves addresses.
count() {
    local experiment=$1 changes=$2
    # shellcheck disable=SC2086 # several arguments
    env -i valgrind --tool=callgrind --callgrind-out-file="$scratch/out" "$target/release/sim" \
        run "$experiment" $changes --jobs 1 --no-figures --force --out "$scratch/run" \
        >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; return 1; }
    sed -n 's/^summary: \([0-9]*\).*/\1/p; s/^totals: \([0-9]*\).*/\1/p' "$scratch/out" | head -n 1
}

status=0
for run in "${runs[@]}"; do
    IFS='|' read -r name experiment changes <<<"$run"
    now=$(count "$experiment" "$changes")
    echo "$name $now" >>"$scratch/now"
    before=$(awk -v name="$name" '$1 == name { print $2 }' "$record" 2>/dev/null || true)
    if [ -z "$before" ]; then
        echo "instructions: $name: $now, and no record" >&2
        status=1
        continue
    fi
    change=$(awk -v now="$now" -v before="$before" 'BEGIN { printf "%+.1f", 100 * (now / before - 1) }')
    echo "instructions: $name: $now, recorded $before ($change %)" >&2
    if awk -v change="$change" -v most="$most_percent" 'BEGIN { exit !(change > most) }'; then
        echo "instructions: $name grew by more than $most_percent %: make it cheaper, or say why it costs more and run $0 --record" >&2
        status=1
    fi
done
if [ "${1:-}" = --record ]; then
    {
        echo "# Instructions of the runs of instructions.sh, which writes this file (--record)."
        echo "# $(valgrind --version), $(rustc --version)"
        cat "$scratch/now"
    } >"$record"
    echo "instructions: recorded" >&2
    exit 0
fi
exit "$status"
