#!/usr/bin/env bash
# Builds the program as the profile `dist` does, and lets the compiler know what training
# runs spent their time on (profile-guided optimisation). Same results, fewer CPU seconds.
#
# usage: benches/guided-build.sh
#
# Everything is built twice, in a target folder of its own; the program is at
# target/guided/HOST/dist/sim, a path that is printed last. What it is trained on is shipped
# here and read from nowhere else. Needs the compiler's own tools: rustup component add llvm-tools
set -euo pipefail

[ $# -eq 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
# Experiment, and what is changed in it: each kind of work, none long.
training=(
    "benches/small.toml|--set router.policy=round_robin"
    "benches/small.toml|--set router.policy=kv"
    "benches/small.toml|--set router.policy=kv --set router.semantics=\"0.9\""
    "benches/small.toml|--set router.policy=kv --set engine.tier=[{name=\"host\",capacity=\"16GiB\",bandwidth=\"50GB/s\",latency=\"20us\"}]"
    "benches/scale-1000w.toml|--set router.policy=kv --set measure.window=8s"
    "benches/scale-1000w.toml|--set router.policy=round_robin --set measure.window=8s"
    "benches/lab-eight-workers.toml|--set workload.count=20_000"
    "benches/grid-441.toml|--set router.overlap_weight=1.0"
    "experiments/doks-3xh200.toml|--seeds 1"
    "experiments/lookalike-conversation-8w.toml|--seeds 1"
)

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$profdata" ]; then
    echo "guided-build: $profdata is not there: rustup component add llvm-tools" >&2
    exit 2
fi
# Wherever the settings of this machine put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
export CARGO_TARGET_DIR=$target/guided
sim=$CARGO_TARGET_DIR/$host/dist/sim
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# With a target named, build scripts and macros are built without these flags.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --quiet --locked --profile dist --target "$host"
}

build "-Cprofile-generate=$scratch/raw"
for run in "${training[@]}"; do
    IFS='|' read -r experiment changes <<<"$run"
    # shellcheck disable=SC2086 # several arguments
    "$sim" run "$experiment" $changes --jobs 1 --no-figures --force --out "$scratch/run" >"$scratch/log" 2>&1 \
        || { cat "$scratch/log" >&2; exit 1; }
done
"$profdata" merge --output="$scratch/merged" "$scratch/raw"
build "-Cprofile-use=$scratch/merged"
echo "$sim"
