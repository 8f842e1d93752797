# shellcheck shell=sh
# setup.sh - sourced by the tools here: Debian packages, the virtual environment in .venv, what is installed into it.
set -eu
umask 022
cd "$(dirname "$0")/.."
REPOSITORY=$PWD

# What a VM needs here, and what building libvirt's Python binding needs.
# shellcheck disable=SC2034  # used by the scripts that source this
RUN_PACKAGES="libvirt-daemon-system libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils cpio gzip"
# shellcheck disable=SC2034
BUILD_PACKAGES="python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev"

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }
die() {
    say "${0##*/}: $*"
    exit 1
}

# need_packages PACKAGE... - install the Debian packages that are missing, or print the line that does
need_packages() {
    if ! command -v dpkg-query >/dev/null 2>&1; then
        say "This is no Debian: it is up to you to have what these packages bring: $*"
        return
    fi
    missing=
    for package; do
        case $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true) in
        ii*) ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        root=
    elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        root=sudo
    else
        die "Debian packages are missing. As root, type:
    apt-get update && apt-get install --no-install-recommends$missing"
    fi
    step "Installing Debian packages:$missing"
    # shellcheck disable=SC2086  # each package is a word
    if ! { $root apt-get -q update && $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        install --no-install-recommends $missing; } >"$LOG" 2>&1; then
        tail -n 20 "$LOG" >&2
        die "apt-get failed; all that it said is in $LOG"
    fi
}

# find_python - the first Python of 3.11 or later; Debian's own first, for its development files come from apt too
find_python() {
    for python in "${PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        [ -n "$python" ] || continue
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    die "no Python of 3.11 or later with its venv module; set PYTHON to one"
}

# install_drivers EXTRAS - the core with these extras, and every driver, into .venv
install_drivers() {
    extras=$1
    set --
    for driver in drivers/*/; do set -- "$@" -e "./$driver"; done
    install_into_venv -e ".[$extras]" "$@"
}

# install_into_venv WHAT... - pip install into .venv, which is made where it is missing; nothing when it was done before
install_into_venv() {
    [ -x .venv/bin/python ] || {
        python=$(find_python)
        step "Making .venv with $("$python" --version)"
        "$python" -m venv .venv
    }
    wanted="$* $(cat pyproject.toml drivers/*/pyproject.toml | cksum) $REPOSITORY"
    stamp=.venv/.virtuoso-$(printf '%s' "$*" | cksum | cut -d' ' -f1)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
    step "Installing into .venv: $*"
    if ! .venv/bin/python -m pip install --disable-pip-version-check -q "$@" >"$LOG" 2>&1; then
        tail -n 20 "$LOG" >&2
        die "pip failed; all that it said is in $LOG"
    fi
    printf '%s' "$wanted" >"$stamp"
}

LOG=$(mktemp "${TMPDIR:-/tmp}/virtuoso-setup.XXXXXX")
