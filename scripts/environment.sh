# shellcheck shell=bash
# The virtual environment of this checkout, shared by quickstart.sh and test.sh. Source this file, then call
#
#   tlm_environment requirements.lock        the locked versions and this checkout, editable
#   tlm_environment requirements-dev.lock    those and the development tools
#
# It activates the environment and goes to the checkout, or prints one sentence and returns 2. A second call with the same
# lock installs nothing. What runs there looks nothing up on the Hub.
# PYTHON picks the interpreter (default: python3), TLM_VENV the folder (default: .venv in the checkout).

TLM_ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"

_tlm_fail() {
    printf 'error: %s\n' "$*" >&2
    return 2
}

tlm_environment() {
    local lock="$1" venv="${TLM_VENV:-$TLM_ROOT/.venv}" python="${PYTHON:-python3}" key
    local pip=("$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input)
    key="$(cat "$TLM_ROOT/pyproject.toml" "$TLM_ROOT/requirements.lock" "$TLM_ROOT/$lock" | cksum) $TLM_ROOT"
    if [ "$(cat "$venv/.tlm-$lock" 2>/dev/null)" != "$key" ]; then
        if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$venv/.tlm-owner" ]; then
            _tlm_fail "$venv was not made by this script: move it away, or set TLM_VENV to another folder"
            return
        fi
        # An installation that was cut off leaves packages that pip takes for whole, so it starts from nothing.
        [ ! -e "$venv/.tlm-unfinished" ] || rm -rf -- "$venv"
        printf '[environment] installing %s into %s (some minutes the first time)\n' "$lock" "$venv"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null ||
            { _tlm_fail "$python is not Python >= 3.11: install one, or set PYTHON to it"; return; }
        mkdir -p "$venv" && touch "$venv/.tlm-owner" "$venv/.tlm-unfinished" &&
            "$python" -m venv "$venv" </dev/null || return 2
        # torch first and alone: in one resolution with everything else pip may download several builds of it.
        "${pip[@]}" --constraint "$TLM_ROOT/requirements.lock" torch </dev/null &&
            "${pip[@]}" --requirement "$TLM_ROOT/$lock" </dev/null &&
            "${pip[@]}" --no-deps --no-build-isolation --editable "$TLM_ROOT" </dev/null ||
            { _tlm_fail "pip failed (its message is above): mend that and run the same command again"; return; }
        printf '%s\n' "$key" >"$venv/.tlm-$lock"
        rm -f -- "$venv/.tlm-unfinished"
    fi
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
    cd -- "$TLM_ROOT" || return
}
