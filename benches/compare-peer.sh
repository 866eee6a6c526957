#!/usr/bin/env bash
# Times a peer and this simulator on the same work, run by run in turn.
#
# usage: benches/compare-peer.sh [--install] WORK FOLDER [RUNS]
#
# WORK: dynamo-kv, dynamo-rr, lab-one-worker, lab-eight-workers or lab-sessions.
#
# With --install the peer is installed into FOLDER, if it is not there: Dynamo from
# the Python package index, inference-lab with cargo. RUNS is 5 unless given.
# Dynamo's rows need the public trace conversation_trace.jsonl in the folder that
# SIM_TRACES names.
# Prints median CPU seconds, peak memory and the ratios. Needs GNU time.
set -euo pipefail

usage() {
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

install=false
if [ "${1:-}" = --install ]; then
    install=true
    shift
fi
[ $# -ge 2 ] || usage
peer=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
runs=${3:-5}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

# Says whether the program $1 has to be installed; ends if it is missing and nobody asked.
must_install() {
    [ ! -x "$1" ] || return 1
    $install || { echo "compare-peer: $1 is not there: give --install to get it" >&2; exit 2; }
}

# SIM_BIN names a program that is built already.
if [ -z "${SIM_BIN:-}" ]; then
    cargo build --quiet --locked --profile dist --manifest-path "$root/Cargo.toml"
fi
sim="${SIM_BIN:-$target/dist/sim} run --jobs 1 --no-figures --force --out $folder/out"

case $peer in
dynamo-kv | dynamo-rr)
    trace=${SIM_TRACES:?must name the folder of conversation_trace.jsonl}/conversation_trace.jsonl
    python=$folder/dynamo/bin/python
    if must_install "$python"; then
        python3 -m venv "$folder/dynamo"
        "$python" -m pip install --quiet ai-dynamo-runtime==1.6.1 numpy
        # Without its other dependencies: one of them is a stub on the public index.
        "$python" -m pip install --quiet --no-deps ai-dynamo==1.6.1
    fi
    if [ "$peer" = dynamo-kv ]; then router=kv_router policy=kv; else router=round_robin policy=round_robin; fi
    theirs="env DYN_LOG=error $python $root/benches/peers/dynamo_replay.py $trace $router"
    ours="$sim $root/benches/peer-conversation-8w.toml --set router.policy=$policy"
    ;;
lab-one-worker | lab-eight-workers | lab-sessions)
    if must_install "$folder/bin/inference-lab"; then
        cargo install --quiet --locked --root "$folder" inference-lab --version 1.0.0
    fi
    python3 "$root/benches/peers/inference_lab.py" "${peer#lab-}" "$folder"
    theirs="$folder/bin/inference-lab -c $folder/config.toml -w $folder/workload.toml -q --no-color -o $folder/out.json"
    ours="$sim $root/benches/$peer.toml"
    ;;
*)
    usage
    ;;
esac

python3 "$root/benches/peers/alternate.py" "$runs" "$peer" "$theirs" sim "$ours"
