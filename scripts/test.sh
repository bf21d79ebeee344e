#!/usr/bin/env bash
# Everything that a change must pass: lint, format, types and the tests, from a fresh clone with Python >= 3.11 and pip.
#
#   bash scripts/test.sh                                all but the slow tests
#   bash scripts/test.sh -m "slow or not slow"          those too; arguments go to pytest
#   TLM_TEST_PROCESSES=0 bash scripts/test.sh           in one process (the default is two)
# The exit code is pytest's; if the tests pass but lint, format or types do not, it is 1.
set -uo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
tlm_environment requirements-dev.lock || exit

failed=()
check() {
    printf '== %s\n' "$*"
    python -m "$@" || failed+=("$*")
}
check ruff check .
check ruff format --check .
check mypy

# Two files of tests at a time, one thread each: most of a test's time is imports and small tensors, which fill one core.
printf '== pytest\n'
OMP_NUM_THREADS=1 python -m pytest -q --durations 20 --numprocesses "${TLM_TEST_PROCESSES:-2}" --dist loadfile "$@"
status=$?
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'error: failed before the tests: %s\n' "$(IFS=';'; printf '%s' "${failed[*]}")" >&2
    [ "$status" -ne 0 ] || status=1
fi
exit "$status"
