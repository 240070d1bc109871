#!/usr/bin/env bash
# Everything `make setup` does: virtual environment, locked packages, the project itself, the broker's jars.
# Each step leaves a stamp and is skipped while what it was made from is unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamps=$venv/stamps
pythons=(3.11 3.12 3.13)
packages=(schemas feature_store edge_producer stream_processors model_service infra)

said=
say() {
    printf '[setup] %s\n' "$*"
    said=yes
}
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
fits() { [[ " ${pythons[*]} " == *" $1 "* ]]; }

find_python() {
    local wanted="Python ${pythons[0]}, ${pythons[1]} or ${pythons[2]}" candidate version found=""
    if [ -n "${PYTHON:-}" ]; then
        version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON is no Python that runs here; $wanted is needed"
        fits "$version" || fail "PYTHON=$PYTHON is Python $version; $wanted is needed"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3 "${pythons[@]/#/python}"; do
        version=$(version_of "$candidate") || continue
        if fits "$version"; then
            command -v "$candidate"
            return
        fi
        found=" (python3 is $version)"
    done
    fail "$wanted is not installed$found: apt-get install python3 python3-venv"
}

check_machine() {
    local python=$1 java_major free_mb
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is not installed: apt-get install python3-venv"
    command -v java >/dev/null || fail "java is not installed: apt-get install openjdk-17-jre-headless"
    java_major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${java_major:-0}" -ge 17 ] ||
        fail "java is version ${java_major:-unknown}, 17 or newer is needed: apt-get install openjdk-17-jre-headless"
    command -v mvn >/dev/null || fail "mvn is not installed: apt-get install maven"
    free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
    [ "$free_mb" -ge 2500 ] || fail "$PWD has $free_mb MB free, setup needs 2500 MB: free some space"
}

digest() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
is_done() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }
mark_done() { printf '%s\n' "$2" >"$stamps/$1"; }

make_environment() {
    local python version
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        version=$(version_of "$venv/bin/python")
        fits "$version" || fail "$venv has Python $version, which is not supported: make clean, then make setup"
        return
    fi
    python=$(find_python)
    check_machine "$python"
    say "1/4 virtual environment in $venv ($("$python" --version) of $python)"
    "$python" -m venv "$venv"
    mkdir -p "$stamps"
}

install_packages() {
    local wanted total
    wanted=$(digest requirements.txt)
    is_done packages "$wanted" && return
    total=$(grep -c '^[a-z0-9].*==' requirements.txt)
    say "2/4 $total locked packages (some 450 MB to fetch, 1.1 GB installed; a few minutes the first time)"
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
        --require-hashes -r requirements.txt |
        awk -v total="$total" '/^(Collecting|Requirement already)/ { if (++n % 10 == 0) print "[setup]   … " n " of " total; fflush() }'
    say "    compiling them once"
    # Some packages carry templates that are no Python: their errors do not matter.
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -m compileall -qq -j 0 "$venv"/lib/python3*/site-packages || true
    mark_done packages "$wanted"
}

install_project() {
    local wanted
    wanted=$(digest pyproject.toml requirements.txt <(pwd))
    if ! is_done project "$wanted"; then
        say "3/4 edgeloop itself"
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
        mark_done project "$wanted"
    fi
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -m compileall -q "${packages[@]}"
}

fetch_broker() {
    "$venv/bin/python" - "$said" <<'PYTHON'
import os
import sys

from infra.kafka.class_recording import record_classes
from infra.kafka.kafka_jars import resolve_jars
from infra.settings import default_cache_dir
from schemas.errors import PipelineError

try:
    def say(line):
        print(f"[setup] 4/4 {line}", flush=True)

    folder = resolve_jars(default_cache_dir(os.environ), say)
    if sys.argv[1]:  # an earlier step was said, so this one is too
        print(f"[setup] 4/4 the broker's jars are in {folder}", flush=True)
except PipelineError as exc:
    sys.exit(f"error: {exc}")
try:
    record_classes(default_cache_dir(os.environ), say)
except PipelineError as exc:
    say(f"the broker works without its classes recorded, and starts slower: {exc}")
PYTHON
}

# What would send packages elsewhere than into the environment, or contradict the hashes.
unset PIP_TARGET PIP_PREFIX PIP_USER PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_REQUIRE_VIRTUALENV
unset PYTHONPATH PYTHONHOME

mkdir -p "$stamps"
exec 9>"$venv/setup.lock"
flock 9 # two makes at once: the second waits and finds all done
make_environment
install_packages
install_project
fetch_broker
say "done: edgeloop is in $PWD/$venv/bin (source $venv/bin/activate puts it on your path)"
