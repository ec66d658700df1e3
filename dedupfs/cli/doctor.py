"""`dedupfs doctor`: whether this machine has what dedupfs, or one volume, needs, and what to do where it has not."""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import features

from dedupfs import __version__
from dedupfs.cli import passphrase
from dedupfs.cli.exitcodes import DONE, FAILED
from dedupfs.cli.names import visible

_FUSE_DEVICE = Path("/dev/fuse")
_FUSE_CONFIGURATION = Path("/etc/fuse.conf")
_FILESYSTEMS = Path("/proc/filesystems")
_PROCESS_STATUS = Path("/proc/self/status")
_CAP_SYS_ADMIN = 21
_MIN_KERNEL = (3, 15)
"""From there on the kernel tells of renames and writes in the form that libfuse 2.9 expects of it."""
_PACKAGES = (
    ("apt-get", "apt-get install fuse libfuse2"),
    ("dnf", "dnf install fuse fuse-libs"),
    ("zypper", "zypper install fuse libfuse2"),
    ("pacman", "pacman -S fuse2"),
    ("apk", "apk add fuse"),
)
_LIBRARIES = (
    *("cryptography", "fusepy", "imagehash", "lmdb", "numpy", "pillow", "pycryptodome", "scipy"),
    "pillow-heif",
)
_CODECS = (
    ("JPEG", "jpg", "libjpeg_turbo"),
    ("PNG", "zlib", "zlib_ng"),
    ("WebP", "webp", "webp"),
    ("AVIF", "avif", "avif"),
    ("TIFF", "libtiff", "libtiff"),
)
"""Formats, what Pillow has to be made with for them, and what it calls the library whose version counts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """`ok`; `limited` where only some uses suffer; `missing` where nothing can be mounted."""
    text: str
    remedy: str = ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="see whether this machine has everything that is needed",
        description="Look for libfuse, fusermount, /dev/fuse, the kernel's part, Python libraries and picture codecs;"
        " say what is missing and which command brings it. With VOLUME also whether its renditions were made with the"
        " same versions of the image libraries as are here. Exit code 1 when nothing can be mounted. Changes nothing.",
    )
    parser.add_argument(
        "volume", metavar="VOLUME", type=Path, nargs="?", help="a volume's directory, or its mountpoint"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    passphrase.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the machine."""
    findings = examine()
    if options.volume is not None:
        findings.append(_renditions(options))
    can_mount = all(finding.state != "missing" for finding in findings)
    if options.json:
        answer = {
            "version": __version__,
            "can_mount": can_mount,
            "findings": [asdict(finding) for finding in findings],
        }
        print(json.dumps(answer, indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.name:18} {finding.text}")
            if finding.remedy:
                print(f"{'':8} {'':18} -> {finding.remedy}")
        print("volumes can be mounted" if can_mount else "nothing can be mounted; export and import work all the same")
    return DONE if can_mount else FAILED


def examine() -> list[Finding]:
    """Return what was found, what is needed most first."""
    return [_python(), _kernel(), _device(), _library(), _fusermount(), _allow_other(), *_libraries(), *_codecs()]


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}; dedupfs {__version__}")


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < _MIN_KERNEL:
        return Finding("kernel", "missing", f"{release} is too old", "install a kernel of this decade")
    if not any(line.split()[-1:] == ["fuse"] for line in _lines(_FILESYSTEMS)):
        return Finding("kernel", "missing", f"{release}, without FUSE", "sudo modprobe fuse")
    if os.geteuid() == 0 and not _may_mount():
        remedy = "start the container with --cap-add SYS_ADMIN --device /dev/fuse"
        return Finding("kernel", "missing", f"{release}; this root may not mount", remedy)
    return Finding("kernel", "ok", release)


def _device() -> Finding:
    if not _FUSE_DEVICE.exists():
        remedy = "sudo modprobe fuse, or start the container with --device /dev/fuse"
        return Finding(str(_FUSE_DEVICE), "missing", "is not there", remedy)
    # fusermount opens it as root where a user may not.
    if not os.access(_FUSE_DEVICE, os.R_OK | os.W_OK):
        return Finding(str(_FUSE_DEVICE), "missing", "may not be opened", f"sudo chmod 666 {_FUSE_DEVICE}")
    return Finding(str(_FUSE_DEVICE), "ok", "can be opened")


def _library() -> Finding:
    # fusepy looks for it in the same way.
    name = ctypes.util.find_library("fuse")
    if name is None:
        return Finding("libfuse 2", "missing", "is not installed", _package_command())
    try:
        library = ctypes.CDLL(name)
    except OSError as exc:
        return Finding("libfuse 2", "missing", f"cannot be loaded: {exc}", _package_command())
    return Finding("libfuse 2", "ok", f"{name}, interface {library.fuse_version() / 10:.1f}")


def _fusermount() -> Finding:
    found = shutil.which("fusermount")
    if found is None:
        return Finding("fusermount", "missing", "is not installed", _package_command())
    if os.geteuid() != 0 and not Path(found).stat().st_mode & stat.S_ISUID:
        return Finding("fusermount", "missing", f"{found} is not setuid root", f"sudo chmod u+s {found}")
    return Finding("fusermount", "ok", found)


def _allow_other() -> Finding:
    name = "user_allow_other"
    if any(line.strip() == name for line in _lines(_FUSE_CONFIGURATION)):
        return Finding(name, "ok", f"is set in {_FUSE_CONFIGURATION}")
    if os.geteuid() == 0:
        return Finding(name, "ok", "is not set, and root does not need it")
    remedy = f"echo {name} | sudo tee -a {_FUSE_CONFIGURATION}"
    return Finding(name, "limited", "is not set: a mount can be seen by whoever mounts it only", remedy)


def _libraries() -> Iterator[Finding]:
    for name in _LIBRARIES:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if name == "pillow-heif":
                yield Finding(name, "limited", "is not installed: HEIC pictures are stored exactly", _pip(name))
            else:
                yield Finding(name, "missing", "is not installed", _pip(name))


def _codecs() -> Iterator[Finding]:
    for name, feature, library in _CODECS:
        if features.check(feature):
            # Not every Pillow is made with that library; then the version of the interface has to do.
            known = ((each, features.version(each)) for each in (library, feature))
            said = next((f"{each} {version}" for each, version in known if version), "can be read and written")
            yield Finding(f"{name} pictures", "ok", said)
        else:
            lost = f"this Pillow lacks {feature}: {name} pictures are stored exactly"
            yield Finding(f"{name} pictures", "limited", lost, f"{_pip('pillow')} --force-reinstall --no-cache-dir")


def _renditions(options: argparse.Namespace) -> Finding:
    # What these import may be the very thing that is missing.
    from dedupfs.cli.opened import opened
    from dedupfs.ingest.renderer import LOOKED_AT, codecs, made_elsewhere

    with opened(options) as found:
        elsewhere = made_elsewhere(found.volume.contents.some(LOOKED_AT))
    if elsewhere is None:
        return Finding("renditions", "ok", f"none was made with other libraries than {codecs().decode()}")
    remedy = f"dedupfs check --data {shlex.quote(visible(str(options.volume)))} draws each of them and compares"
    return Finding("renditions", "limited", elsewhere, remedy)


def _package_command() -> str:
    for program, command in _PACKAGES:
        if shutil.which(program):
            return command if os.geteuid() == 0 else f"sudo {command}"
    return "install libfuse 2 (2.9 or newer) with its fusermount"


def _pip(name: str) -> str:
    return f"{sys.executable} -m pip install {name}"


def _may_mount() -> bool:
    for line in _lines(_PROCESS_STATUS):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
