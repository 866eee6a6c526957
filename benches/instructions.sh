#!/usr/bin/env bash
# Counts the instructions of small runs and compares them with the record: a
# machine's load moves seconds, but not these.
#
# usage: benches/instructions.sh [--profile release|dist] [--record]
#
# Fails if a run takes more than 5 % more instructions than benches/instructions.txt
# says of that build profile (default: release); --record writes the profile's lines
# of that file. Needs valgrind.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
record=benches/instructions.txt
most_percent=5
# Name of a run, experiment, and what is changed in it.
runs=(
    "vllm-round-robin|benches/small.toml|--set router.policy=round_robin"
    "vllm-kv|benches/small.toml|--set router.policy=kv"
    "vllm-kv-0.9|benches/small.toml|--set router.policy=kv --set router.semantics=\"0.9\""
    "vllm-kv-tiers|benches/small.toml|--set router.policy=kv --set engine.tier=[{name=\"host\",capacity=\"16GiB\",bandwidth=\"50GB/s\",latency=\"20us\"}]"
    "thousand-workers-kv|benches/scale-1000w.toml|--set router.policy=kv --set workload.concurrency=1000 --set measure.window=4s"
    "trtllm-kv|benches/grid-441.toml|--set router.overlap_weight=1.0 --set router.temperature=0.0"
)

profile=release
is_record=
while [ $# -gt 0 ]; do
    case $1 in
        --record) is_record=yes ;;
        --profile) shift; profile=${1:-} ;;
        *) echo "instructions: $1: not an argument; see the head of $0" >&2; exit 2 ;;
    esac
    shift
done
case $profile in
    release | dist) ;;
    *) echo "instructions: --profile $profile: must be release or dist" >&2; exit 2 ;;
esac
if ! command -v valgrind >/dev/null; then
    echo "instructions: valgrind is not installed" >&2
    exit 2
fi
cd "$root"
cargo build --quiet --locked --profile "$profile"
# Wherever the settings of this machine put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The environment is on the stack, so it is emptied: its size moves addresses.
count() {
    local experiment=$1 changes=$2
    # shellcheck disable=SC2086 # several arguments
    env -i valgrind --tool=callgrind --callgrind-out-file="$scratch/out" "$target/$profile/sim" \
        run "$experiment" $changes --jobs 1 --no-figures --force --out "$scratch/run" \
        >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; return 1; }
    sed -n 's/^summary: \([0-9]*\).*/\1/p; s/^totals: \([0-9]*\).*/\1/p' "$scratch/out" | head -n 1
}

status=0
for run in "${runs[@]}"; do
    IFS='|' read -r name experiment changes <<<"$run"
    now=$(count "$experiment" "$changes")
    case $now in
        '' | *[!0-9]*) echo "instructions: $name: callgrind counted nothing" >&2; exit 1 ;;
    esac
    echo "$profile $name $now" >>"$scratch/now"
    before=$(awk -v profile="$profile" -v name="$name" '$1 == profile && $2 == name { print $3 }' "$record")
    if [ -z "$before" ]; then
        echo "instructions: $profile: $name: $now, and no record" >&2
        status=1
        continue
    fi
    change=$(awk -v now="$now" -v before="$before" 'BEGIN { printf "%+.1f", 100 * (now / before - 1) }')
    echo "instructions: $profile: $name: $now, recorded $before ($change %)" >&2
    if awk -v change="$change" -v most="$most_percent" 'BEGIN { exit !(change > most) }'; then
        echo "instructions: $name grew by more than $most_percent %: make it cheaper, or say why it costs more and run $0 --profile $profile --record" >&2
        status=1
    fi
done
if [ -n "$is_record" ]; then
    {
        echo "# Build profile, run, instructions: of the runs of instructions.sh, which writes this file (--record)."
        echo "# $(valgrind --version), $(rustc --version)"
        { grep -v -e '^#' -e "^$profile " "$record" || true; cat "$scratch/now"; } | sort
    } >"$scratch/record"
    mv "$scratch/record" "$record"
    echo "instructions: $profile: recorded" >&2
    exit 0
fi
exit "$status"
