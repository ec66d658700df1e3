# shellcheck shell=bash
# Sourced by the scripts beside it. `bootstrap WORD...` makes sure of what they run on, and installs what is missing:
#
#   dev       the development tools, besides dedupfs itself
#   fuse      libfuse 2 and fusermount
#   device    /dev/fuse, without which nothing can be mounted
#
# Afterwards $ROOT is the checkout and $PYTHON the interpreter of its virtual environment ($DEDUPFS_VENV, or .venv in
# the checkout). Debian packages are installed as root or with sudo, and only if something is missing; a second run
# costs some milliseconds.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${DEDUPFS_VENV:-$ROOT/.venv}
PYTHON=$VENV/bin/python

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# ensurepip is what Debian splits off into python3-venv.
usable_python() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Asks in the way fusepy asks, so that the answers agree.
has_libfuse() {
    "$1" -c 'import sys; from ctypes.util import find_library; sys.exit(find_library("fuse") is None)' 2>/dev/null
}

install_packages() {
    local packages="$*" sudo=()
    command -v apt-get >/dev/null ||
        die "missing: $packages (names of Debian's packages; install them with this system's package manager)"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "missing, and neither root nor sudo to install it: apt-get install $packages"
        sudo=(sudo)
    fi
    say "Installing $packages ..."
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -qq -o Dpkg::Use-Pty=0)
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null; } </dev/null ||
        die "could not install with apt-get: $packages"
}

install_system() {
    local missing=() wants_fuse=$1
    usable_python python3 || missing+=(python3 python3-venv)
    if [ "$wants_fuse" = yes ]; then
        # Without Python nothing can look for the library; asking for an installed package does no harm.
        has_libfuse python3 || missing+=(libfuse2)
        command -v fusermount >/dev/null || missing+=(fuse)
    fi
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
    usable_python python3 || die "missing: Python 3.11 or newer with venv (found: $(python3 --version 2>&1))"
}

install_package() {
    local extra=$1 wanted stamp=$VENV/.dedupfs-installed
    # What is installed depends on these alone: the package itself is installed editable. The file names what is there.
    wanted="$ROOT $(cksum <"$ROOT/pyproject.toml")"
    if [ -x "$PYTHON" ] && [ -f "$stamp" ]; then
        case "$(cat "$stamp")" in
        "$wanted dev") return ;;
        "$wanted base") [ "$extra" = dev ] || return 0 ;;
        esac
    fi
    say "Preparing $VENV ..."
    [ -x "$PYTHON" ] || python3 -m venv "$VENV" || die "could not make a virtual environment in $VENV"
    local target=$ROOT
    [ "$extra" = base ] || target="${ROOT}[$extra]"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --use-pep517 -e "$target" </dev/null ||
        die "pip could not install dedupfs into $VENV"
    printf '%s %s\n' "$wanted" "$extra" >"$stamp"
}

bootstrap() {
    local word extra=base fuse=no device=no
    for word in "$@"; do
        case $word in
        dev) extra=dev ;;
        fuse) fuse=yes ;;
        device) fuse=yes device=yes ;;
        *) die "bootstrap: unknown word $word" ;;
        esac
    done
    install_system "$fuse"
    install_package "$extra"
    if [ "$device" = yes ] && ! [ -e /dev/fuse ]; then
        die "missing: /dev/fuse (try 'modprobe fuse'; a container needs --device /dev/fuse --cap-add SYS_ADMIN)"
    fi
}
