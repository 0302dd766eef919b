#!/bin/sh
# Names at once everything the machine itself must bring, each with its Debian package.
# PYTHON names another interpreter than python3. Exit status 1 if anything is missing.
python=${PYTHON:-python3}
missing=""

need() {  # need COMMAND PACKAGE WHAT
    command -v "$1" >/dev/null 2>&1 || missing="$missing
  $3 ($1): install the package $2"
}

need make make "GNU make"
need git git "git"
need perl perl "Perl, which Verilator's driver is written in"
need g++ g++ "the C++ compiler that builds the simulation"
need ar binutils "the archiver, which that build calls"
if ! command -v "$python" >/dev/null 2>&1; then
    missing="$missing
  Python 3.11 or later ($python): install the packages python3 and python3-venv, or set PYTHON"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    missing="$missing
  Python 3.11 or later: $python is $("$python" --version 2>&1); set PYTHON to a later one"
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing="$missing
  Python's venv module: install the package python3-venv"
fi

if [ -n "$missing" ]; then
    echo "tcast needs what this machine does not have:$missing" >&2
    exit 1
fi
