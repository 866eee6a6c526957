#!/usr/bin/env bash
# What action.yml runs, also by hand: holds experiments against their baselines, appends a
# Markdown summary to $GITHUB_STEP_SUMMARY and writes JUnit to $JUNIT. Ends with 1 if something
# got worse or a router breaks a law of its protocol, with 2 if something cannot be read.
set -Eeuo pipefail

sim=${SIM:-${RUNNER_TEMP:+$RUNNER_TEMP/sim/bin/sim}}
sim=${sim:-sim}
junit=${JUNIT:-routing-check.xml}
summary=${GITHUB_STEP_SUMMARY:-/dev/stdout}
output=${GITHUB_OUTPUT:-/dev/null}

printf 'junit=%s\n' "$junit" >>"$output"
finish() {
    printf 'passed=%s\n' "$([[ $1 -eq 0 ]] && echo true || echo false)" >>"$output"
    exit "$1"
}

# The lines of $1 that say something.
lines() {
    local line
    while IFS= read -r line; do
        line="${line#"${line%%[![:space:]]*}"}"
        line="${line%"${line##*[![:space:]]}"}"
        [[ -z $line ]] || printf '%s\n' "$line"
    done <<<"$1"
}

mapfile -t experiments < <(lines "${EXPERIMENTS:-}")
mapfile -t sets < <(lines "${SET:-}")
if [[ ${#experiments[@]} -eq 0 ]]; then
    echo "routing check: experiments is empty: name one a line" >&2
    finish 2
fi
arguments=()
for set in "${sets[@]}"; do arguments+=(--set "$set"); done
[[ -z ${BASELINES:-} ]] || arguments+=(--baselines "$BASELINES")
[[ -z ${JOBS:-} ]] || arguments+=(--jobs "$JOBS")

if [[ -n ${ROUTER:-} ]]; then
    # Words between spaces and line breaks; quotes mean nothing, and nothing in them is run.
    read -r -d '' -a router <<<"$ROUTER" || true
    code=0
    laws=$("$sim" external --decisions 2000 --check "${router[@]}") || code=$?
    { echo '### Laws of the protocol'; echo '```'; printf '%s\n' "$laws"; echo '```'; } >>"$summary"
    [[ $code -eq 0 ]] || finish "$code"
fi

code=0
markdown=$("$sim" check "${experiments[@]}" "${arguments[@]}" --format markdown --junit "$junit") || code=$?
printf '%s\n' "$markdown" >>"$summary"
finish "$code"
