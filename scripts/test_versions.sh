#!/usr/bin/env bash
# The quick tests with the oldest and the newest transformers, huggingface-hub and datasets that pyproject.toml allows:
#
#   bash scripts/test_versions.sh [oldest|newest]       both ends, or one of them; further arguments go to pytest
# The packages of an end are laid over the environment of test.sh, in outputs/versions/: a second one would take 1.8 GB.
set -euo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
tlm_environment requirements-dev.lock
cd -- "$TLM_ROOT"
ends=(oldest newest)
case "${1:-}" in oldest | newest) ends=("$1"); shift ;; esac
quick=(tests/models tests/data/test_masking.py tests/data/test_tokenization.py tests/test_loading.py tests/training/test_schedules.py)

# "name>=low,<high" of pyproject.toml as "name==low" or "name<high".
requirements() {
    python - "$1" <<'PY'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
declared = [*project["dependencies"], *project["optional-dependencies"]["train"]]
for name in ("transformers", "huggingface-hub", "datasets"):
    low, high = re.search(rf"'{name}>=([\d.]+),(<\d+)'", repr(declared)).groups()
    print(f"{name}=={low}" if sys.argv[1] == "oldest" else f"{name}{high}")
PY
}

status=0
for end in "${ends[@]}"; do
    folder="outputs/versions/$end"
    rm -rf -- "$folder"
    mapfile -t wanted < <(requirements "$end")
    printf '== %s: %s\n' "$end" "${wanted[*]}"
    # Their own requirements are those of the environment; httpx is what huggingface-hub below 2 speaks HTTP with.
    python -m pip install --quiet --no-deps --target "$folder" "${wanted[@]}" httpx httpcore
    PYTHONPATH="$TLM_ROOT/$folder" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
        python -m pytest -q --numprocesses 2 --dist loadfile "${@:-${quick[@]}}" || status=1
done
exit "$status"
