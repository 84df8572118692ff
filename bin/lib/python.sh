# One virtual environment per CKAN version: .dev/venv-2.12, made by uv.
# Sourced; wants messages.sh, and CKAN (2.10, 2.11 or 2.12) and DEV set.

ckan_release() {
    case $CKAN in
    2.12) say 2.12.0 ;;
    2.11) say 2.11.6 ;;
    2.10) say 2.10.11 ;;
    *) die "CKAN=$CKAN is not known." "Use CKAN=2.12 (the default), CKAN=2.11 or CKAN=2.10." ;;
    esac
}

python_wanted() {
    if [[ $CKAN == 2.10 ]]; then say "Python 3.10 or 3.11"; else say "Python 3.10 or later"; fi
}

# A fitting Python; 3.11 first, as it serves all three CKAN versions, and the system's before
# others, where it can make environments: Debian builds it to run a third faster than pyenv does.
# pyenv's stubs exist for versions that are not switched on: run each.
find_python() {
    local name found
    for name in ${PYTHON:-} /usr/bin/python3.11 python3.11 python3.12 python3.10 python3 python3.13; do
        command -v "$name" >/dev/null || continue
        found=$("$name" - "$CKAN" "$name" <<'PYTHON' 2>/dev/null
import importlib.util, os, sys, sysconfig
ckan, name, minor = *sys.argv[1:], sys.version_info[1]
fits = 10 <= minor and (ckan != "2.10" or minor <= 11)
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
is_whole = importlib.util.find_spec("ensurepip") and os.path.exists(headers)
print(sys.executable if fits and (is_whole or not name.startswith("/usr/bin/")) else "")
PYTHON
        ) || continue
        [[ -z $found ]] || { say "$found"; return 0; }
    done
    return 1
}

# uv where it is installed; otherwise pip brings it into an environment of its own.
find_uv() {
    if command -v uv >/dev/null; then
        command -v uv
        return
    fi
    local own=$DEV/uv
    if [[ ! -x $own/bin/uv ]]; then
        rm -rf "$own"
        { "$1" -m venv "$own" && "$own/bin/python" -m pip install -q uv; } >"$DEV/log/uv.log" 2>&1 ||
            die_with_log "pip could not install uv." "$DEV/log/uv.log" \
                "Check that the Python package index can be reached from here, then run this again."
    fi
    say "$own/bin/uv"
}

# What the environment was made from; when it changes, it is brought up to date.
environment_stamp() {
    cat "$ROOT/setup.cfg" "$ROOT/setup.py" "$ROOT/dev-requirements.txt" \
        "$ROOT/bin/constraints/ckan-$CKAN.txt" <("$1" -VV) <(say "$ROOT $1") | sha256sum
}

# environment: makes $VENV what it should be.
environment() {
    local python uv stamp log=$DEV/log/venv-$CKAN.log
    VENV=$DEV/venv-$CKAN
    mkdir -p "$DEV/log"
    python=$(find_python) ||
        die "CKAN $CKAN wants $(python_wanted), and none was found." "Install one, or name it: PYTHON=/path/to/python3.11"
    stamp=$(environment_stamp "$python")
    exec 8>"$DEV/venv-$CKAN.lock"
    flock -n 8 || { step "another run is making $VENV; waiting for it"; flock 8; }
    if [[ ! -x $VENV/bin/ckan || $(cat "$VENV/stamp" 2>/dev/null) != "$stamp" ]]; then
        step "python environment with CKAN $(ckan_release)"
        uv=$(find_uv "$python")
        make_environment "$uv" "$python" 8>&- >"$log" 2>&1 ||
            die_with_log "the environment for CKAN $CKAN could not be made." "$log" \
                "Check that the Python package index can be reached, then run this again." \
                "If it still fails, delete $VENV and try once more."
        say "$stamp" >"$VENV/stamp"
    fi
    exec 8>&-
}

make_environment() {
    local uv=$1 python=$2
    # uv does not read pip's settings; this one decides where packages come from.
    [[ -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
    # A change of requirements keeps the environment, so that what runs from it goes on.
    local keep=--clear
    [[ $("$VENV/bin/python" -VV 2>/dev/null) != $("$python" -VV) ]] || keep=--allow-existing
    "$uv" venv $keep --python "$python" "$VENV" &&
        "$uv" pip install --python "$VENV/bin/python" "ckan[requirements,dev]==$(ckan_release)" \
            --constraint "$ROOT/bin/constraints/ckan-$CKAN.txt" \
            --requirement "$ROOT/dev-requirements.txt" --editable "$ROOT"
}
