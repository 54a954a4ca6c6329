#!/bin/bash
# What action.yml runs: annotations, tests, and a summary of what changes for recorded traffic. Exits with the worst
# code of its steps: 2 for a mistake (with INPUT_STRICT=true for a warning, too), 1 for a test that fails.
set -u

config=()
[ -f "${INPUT_CONFIG:-guard.toml}" ] && config=(--config "${INPUT_CONFIG:-guard.toml}")
strict=()
[ "${INPUT_STRICT:-true}" = true ] && strict=(--strict)
worst=0

run() {
    "$@"
    local code=$?
    [ "$code" -gt "$worst" ] && worst=$code
    return 0
}

run guard policy check "${config[@]}" "${strict[@]}" --format github
if [ -n "${INPUT_SARIF:-}" ]; then
    guard policy check "${config[@]}" --format sarif >"$INPUT_SARIF"
fi
run guard policy test "${config[@]}" --cover "${INPUT_COVER:-0}"
if [ -n "${INPUT_LEDGER:-}" ] && [ -n "${INPUT_BEFORE:-}" ]; then
    run guard policy diff "${config[@]}" "$INPUT_BEFORE" "${INPUT_AFTER:-tool_policies}" \
        --ledger "$INPUT_LEDGER" --markdown >>"${GITHUB_STEP_SUMMARY:-/dev/stdout}"
fi
exit "$worst"
