# shellcheck shell=bash
# The one virtual environment of this checkout, shared by quickstart.sh and test.sh. Source this file, then call
#
#   tlm_environment core    the locked versions in requirements.lock, and this checkout (editable)
#   tlm_environment dev     those, and the development tools in requirements-dev.lock
#
# which activates the environment and sets VENV_PYTHON, or prints one sentence and returns 2. A second call with nothing
# changed installs nothing and needs no network. An installation that was cut off half-way is thrown away at the next call
# and made afresh, since pip takes a package whose metadata arrived, but not all of its files, for installed.
#
# Variables: PYTHON     the interpreter to make the environment with (default: the first Python >= 3.11 found)
#            TLM_VENV   its folder (default: .venv in the checkout)
# pip's own settings (its configuration file, PIP_...) hold as usual.

TLM_ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"

_tlm_say() { printf '[environment] %s\n' "$*"; }

_tlm_fail() {
    printf 'error: %s\n' "$*" >&2
    return 2
}

_tlm_is_suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }

_tlm_makes_venvs() { "$1" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; }

# Print the path of a Python >= 3.11 that can make virtual environments.
_tlm_find_python() {
    local name path without_venv=""
    if [ -n "${PYTHON:-}" ]; then
        _tlm_is_suitable "$PYTHON" ||
            { _tlm_fail "PYTHON=$PYTHON does not run as a Python >= 3.11; set it to one, or unset it"; return; }
        _tlm_makes_venvs "$PYTHON" ||
            { _tlm_fail "PYTHON=$PYTHON lacks the modules venv and ensurepip; install them, or set PYTHON to another one"; return; }
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python; do
        while IFS= read -r path; do
            case "$path" in "$TLM_VENV_PATH"/*) continue ;; esac # an activated .venv cannot make itself anew
            _tlm_is_suitable "$path" || continue
            if _tlm_makes_venvs "$path"; then
                printf '%s\n' "$path"
                return
            fi
            without_venv="$path"
        done < <(type -aP "$name")
    done
    if [ -n "$without_venv" ]; then
        _tlm_fail "$without_venv lacks the modules venv and ensurepip; install them (Debian, Ubuntu: apt-get install python3-venv)"
    else
        _tlm_fail "no Python >= 3.11 found; install one, or set PYTHON to its path"
    fi
}

# Print what the environment is made of; two equal keys need no new installation.
_tlm_key() {
    (cd -- "$TLM_ROOT" && "$VENV_PYTHON" -I - "$@") <<'PY'
import hashlib, pathlib, sys

digest = hashlib.sha256(f"{pathlib.Path.cwd()}\n{sys.version}\n".encode())
for name in sys.argv[1:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
}

_tlm_pip() {
    "$VENV_PYTHON" -I -m pip install --quiet --disable-pip-version-check --no-input "$@" </dev/null ||
        _tlm_fail "pip could not install $_tlm_step (its own message is above); mend that and run the same command again"
}

_tlm_build() {
    local kind="$1" lock="requirements.lock" python="" torch="" key
    # owner: the folder was made here, and at this path; unfinished: an installation began and has not ended.
    local owner="$TLM_VENV_PATH/.tlm-owner" unfinished="$TLM_VENV_PATH/.tlm-unfinished" stamp="$TLM_VENV_PATH/.tlm-$kind"
    local inputs=(pyproject.toml requirements.lock)
    if [ "$kind" = dev ]; then
        lock="requirements-dev.lock"
        inputs+=(requirements-dev.lock)
    fi

    if [ -n "$(ls -A -- "$TLM_VENV_PATH" 2>/dev/null)" ]; then
        if [ ! -e "$owner" ]; then
            _tlm_fail "$TLM_VENV_PATH was not made by this script; move it away, or set TLM_VENV to the folder to use instead"
            return
        fi
        if [ ! -e "$unfinished" ] && [ "$(cat -- "$owner")" = "$TLM_VENV_PATH" ] && _tlm_is_suitable "$VENV_PYTHON"; then
            key="$(_tlm_key "${inputs[@]}")" || return 2
            [ "$(cat -- "$stamp" 2>/dev/null)" = "$key" ] && return 0
        else
            python="$(_tlm_find_python)" || return 2
            _tlm_say "$TLM_VENV_PATH is incomplete or was moved: making it afresh"
            : >"$unfinished"
            find "$TLM_VENV_PATH" -mindepth 1 -maxdepth 1 ! -name "${owner##*/}" ! -name "${unfinished##*/}" \
                -exec rm -rf -- {} + || return 2
        fi
    else
        python="$(_tlm_find_python)" || return 2
    fi

    if [ -n "$python" ]; then
        _tlm_say "making $TLM_VENV_PATH with $("$python" --version)"
        if ! { mkdir -p -- "$TLM_VENV_PATH" && printf '%s\n' "$TLM_VENV_PATH" >"$owner" && : >"$unfinished" &&
            "$python" -m venv "$TLM_VENV_PATH" </dev/null; }; then
            _tlm_fail "$python could not make $TLM_VENV_PATH (its own message is above)"
            return
        fi
    fi
    : >"$unfinished"
    # torch by itself and first: in one resolution with everything else pip may weigh several builds of it, some very large.
    torch="$(grep -E '^torch==' "$TLM_ROOT/requirements.lock")"
    _tlm_step="$torch"
    _tlm_say "installing $torch"
    _tlm_pip --constraint "$TLM_ROOT/requirements.lock" "$torch" || return
    _tlm_step="$lock"
    _tlm_say "installing $lock (a minute or two the first time)"
    _tlm_pip --requirement "$TLM_ROOT/$lock" || return
    _tlm_step="this checkout"
    _tlm_say "installing this checkout, editable"
    _tlm_pip --no-deps --no-build-isolation --editable "$TLM_ROOT" || return
    rm -f -- "$unfinished"
    # The stamps last: without one the next call installs again, which finds everything there.
    key="$(_tlm_key "${inputs[@]}")" && printf '%s\n' "$key" >"$stamp" || return 2
    if [ "$kind" = dev ]; then # dev holds all of core
        key="$(_tlm_key pyproject.toml requirements.lock)" && printf '%s\n' "$key" >"$TLM_VENV_PATH/.tlm-core" || return 2
    fi
}

tlm_environment() {
    local status=0
    TLM_VENV_PATH="${TLM_VENV:-$TLM_ROOT/.venv}"
    case "$TLM_VENV_PATH" in /*) ;; *) TLM_VENV_PATH="$PWD/$TLM_VENV_PATH" ;; esac
    VENV_PYTHON="$TLM_VENV_PATH/bin/python"
    # One installation at a time, where the system has flock; the lock is on a file that is there anyway.
    exec 9<"$TLM_ROOT/pyproject.toml"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        _tlm_say "waiting for another installation in this checkout to end"
        flock 9
    fi
    _tlm_build "$1" || status=$?
    exec 9<&-
    # As an activated environment: `accelerate` and `tlm`, called by name, are the ones installed here.
    [ "$status" -ne 0 ] || export VIRTUAL_ENV="$TLM_VENV_PATH" PATH="$TLM_VENV_PATH/bin:$PATH"
    return "$status"
}
