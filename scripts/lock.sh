#!/usr/bin/env bash
# Write requirements.lock and requirements-dev.lock from a fresh environment: bash scripts/lock.sh [--upgrade]
# Without --upgrade the versions of the present lock files stay where pyproject.toml still allows them.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
folder="$(mktemp -d)"
trap 'rm -rf -- "$folder"' EXIT
[ "${1:-}" = --upgrade ] || grep -hv '^-r' requirements.lock requirements-dev.lock >"$folder/constraints"
touch "$folder/constraints"
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/pip" install --quiet --constraint "$folder/constraints" "$@"; }
# torch asks for CUDA packages on Linux machines of one kind only: pinned, they could not be installed on any other.
freeze() { "$folder/venv/bin/pip" freeze --exclude-editable | sed 's/+[[:alnum:].]*$//' | grep -Ev '^(nvidia-|cuda-|triton)'; }

install torch hatchling
install --editable '.[release,study]'
{ echo '# What the quickstart needs, and the build backend. Written by scripts/lock.sh; pyproject.toml has the ranges.'; freeze; } >"$folder/core"
install --editable '.[dev]'
{ echo '# The development tools on top. Written by scripts/lock.sh.'; echo '-r requirements.lock'; freeze | grep -vxFf "$folder/core"; } >"$folder/dev"
mv "$folder/core" requirements.lock
mv "$folder/dev" requirements-dev.lock
