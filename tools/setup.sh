#!/bin/sh
# Installs what is missing, and says what it does. usage: tools/setup.sh check|machine
#   check    Python packages in .venv                (lint, types, unit and contract tests)
#   machine  and what real guests and databases need (Debian packages; needs root)
set -eu
cd "$(dirname "$0")/.."
level=${1:-check}

say() { printf '\033[1m--- %s\033[0m\n' "$*"; }
fail() { printf '\n%s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "Missing Debian packages: $missing. Run as root: apt-get install --no-install-recommends $missing"; fi
}

packages() {
    missing=''
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    command -v apt-get >/dev/null || fail "These Debian packages are missing, and this is no Debian:$missing"
    say "installing Debian packages:$missing"
    as_root apt-get update -qq || fail "The package lists can't be read; is there a network?"
    case "$missing" in *slapd*) echo 'slapd slapd/no_configuration boolean true' | as_root debconf-set-selections ;; esac
    # a fresh database cluster and brokers that start by themselves are not wanted: the tests start their own
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        fail "apt-get could not install:$missing"
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || packages python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed; $python is older."
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages python3-venv
if [ "$level" = machine ]; then
    # shellcheck disable=SC2046 # one package a word
    packages $(grep -v '^#' tools/packages.txt)
fi

stamp=.venv/.stamp-$level
want=$(cat pyproject.toml tools/setup.sh | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    [ -x .venv/bin/python ] || { say "making .venv"; "$python" -m venv .venv; }
    say "installing Python packages into .venv"
    .venv/bin/python -m pip install -q --upgrade pip uv || fail "pip could not install uv; is there a network?"
    extras=scale
    [ "$level" = machine ] && extras=scale,libvirt,ldap
    .venv/bin/uv pip install -q --python .venv/bin/python -e ".[$extras]" --group dev ||
        fail "The Python packages could not be installed."
    echo "$want" >"$stamp"
fi
