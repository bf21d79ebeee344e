#!/usr/bin/env bash
# The quick tests with the oldest and the newest transformers, huggingface-hub and datasets that pyproject.toml allows:
#
#   bash scripts/test_versions.sh [oldest|newest]       both ends, or one of them; further arguments go to pytest
# The packages of an end are laid over the environment of test.sh, in outputs/versions/: a second one would take 1.8 GB.
set -euo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
tlm_environment requirements-dev.lock
ends=(oldest newest)
case "${1:-}" in oldest | newest) ends=("$1"); shift ;; esac
quick=(tests/models tests/data/test_masking.py tests/data/test_tokenization.py tests/test_loading.py tests/training/test_schedules.py)

# "name>=low,<high" of pyproject.toml, the first of each name, as "name==low" or "name<high".
requirements() {
    local change='s/>=[0-9.]+,//'
    [ "$1" = newest ] || change='s/>=([0-9.]+),.*/==\1/'
    grep -oE '"(transformers|huggingface-hub|datasets)>=[0-9.]+,<[0-9]+"' pyproject.toml | tr -d '"' |
        awk -F '>' '!seen[$1]++' | sed -E "$change"
}

status=0
for end in "${ends[@]}"; do
    folder="outputs/versions/$end"
    rm -rf -- "$folder"
    mapfile -t wanted < <(requirements "$end")
    printf '== %s: %s\n' "$end" "${wanted[*]}"
    # Their own requirements are those of the environment; httpx is what huggingface-hub below 2 speaks HTTP with.
    python -m pip install --quiet --no-deps --target "$folder" "${wanted[@]}" httpx httpcore
    PYTHONPATH="$TLM_ROOT/$folder" OMP_NUM_THREADS=1 \
        python -m pytest -q --numprocesses 2 --dist loadfile "${@:-${quick[@]}}" || status=1
done
exit "$status"
