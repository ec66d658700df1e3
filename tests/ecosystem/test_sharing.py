"""A mount that other machines use: by Samba, and by NFS, whose clients name files by handles and not by paths."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ecosystem.programs import PATIENCE_SECONDS, found, needs, run, settle
from tests.mounting import MountedVolume, mark_fuse, open_descriptor

pytestmark = [
    *mark_fuse(),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may serve a folder, or open files by handles"),
]

_C = ctypes.CDLL(None, use_errno=True)
_HANDLE_BYTES = 128


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(command: Sequence[str | Path], port: int) -> Iterator[None]:
    """Run a server from when it answers until the end of the block."""
    program, *arguments = map(str, command)
    server = subprocess.Popen(
        [str(found(program)), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@needs("smbd", "smbclient")
def test_samba_serves_it(here: Path, shared: MountedVolume, library: Path, tmp_path: Path, free_port: int) -> None:
    own = {"private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"}
    options = {
        "server role": "standalone server",
        "map to guest": "Bad User",
        "guest account": "root",
        "interfaces": "127.0.0.1",
        "bind interfaces only": "yes",
        "smb ports": str(free_port),
        "disable netbios": "yes",
        "load printers": "no",
        "log file": str(tmp_path / "log"),
        **{name: str(tmp_path) for name in own},
    }
    share = {"path": str(here), "read only": "no", "guest ok": "yes", "force user": "root"}
    share |= {"ea support": "yes", "store dos attributes": "yes"}
    configuration = tmp_path / "smb.conf"
    sections = {"global": options, "photos": share}
    configuration.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
            for name, section in sections.items()
        )
    )
    orders = (
        f"lcd {library}; prompt off; mput *.jpg; mkdir sub; rename cat.jpg sub\\kat.jpg; del wren.jpg;"
        f" setmode coffee.jpg +h; lcd {tmp_path}; get sub\\kat.jpg kat.jpg; allinfo rocket.jpg"
    )
    with served(["smbd", "-F", "--no-process-group", "-s", configuration], free_port):
        client = ("smbclient", "-s", configuration, "-N", "-p", str(free_port), "//127.0.0.1/photos", "-c")
        run(*client, orders)
        settle(shared)
        run(*client, f"lcd {tmp_path}; get rocket.jpg")
        attributes = run(*client, "allinfo coffee.jpg")
    assert "attributes: HA" in attributes
    assert (tmp_path / "kat.jpg").read_bytes() == (library / "cat.jpg").read_bytes()
    assert (tmp_path / "rocket.jpg").read_bytes() == (library / "rocket.jpg").read_bytes()
    assert not (here / "wren.jpg").exists()
    assert (here / "sub" / "kat.jpg").read_bytes() == (library / "cat.jpg").read_bytes()


@needs("ganesha.nfsd", "nfs-ls", "nfs-cat")
def test_an_nfs_server_reads_from_it(here: Path, library: Path, tmp_path: Path, free_port: int) -> None:
    """Not the kernel's server, which is missing on many machines; libnfs's tools are the client."""
    run("cp", "-a", f"{library}/.", here)
    configuration = tmp_path / "ganesha.conf"
    configuration.write_text(
        f"NFS_CORE_PARAM {{ NFS_Port = {free_port}; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false;"
        " Bind_addr = 127.0.0.1; fsid_device = true; }\n"
        f"NFSV4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {tmp_path}; }}\n"
        f"EXPORT {{ Export_Id = 1; Path = {here}; Pseudo = /photos; Access_Type = RO; Squash = No_Root_Squash;"
        " SecType = sys; Protocols = 4; Transports = TCP; FSAL { Name = VFS; } Filesystem_Id = 77.77; }\n"
    )
    command: list[str | Path] = [
        "ganesha.nfsd",
        "-F",
        "-f",
        configuration,
        "-L",
        tmp_path / "log",
        "-p",
        tmp_path / "pid",
    ]
    with served(command, free_port):
        options = f"?version=4&nfsport={free_port}"
        listed = run("nfs-ls", f"nfs://127.0.0.1/photos{options}")
        for name in ("cat.jpg", "versions/cat-soft.jpg"):
            answer = subprocess.run(
                ["nfs-cat", f"nfs://127.0.0.1/photos/{name}{options}"],
                capture_output=True,
                timeout=PATIENCE_SECONDS,
                check=True,
            )
            assert answer.stdout == (library / name).read_bytes()
    assert {"cat.jpg", "versions", "beach.xmp"} <= {line.split()[-1] for line in listed.splitlines() if line}


def test_a_handle_leads_to_its_file_even_after_a_remount(here: Path, shared: MountedVolume) -> None:
    """What NFS servers need: the kernel has forgotten the inode, and the client comes with nothing but its handle."""
    (here / "folder").mkdir()
    (here / "folder" / "file").write_bytes(b"content")
    (here / "folder" / "removed").write_bytes(b"")
    file, folder, removed = (_handle(here / name) for name in ("folder/file", "folder", "folder/removed"))
    (here / "folder" / "removed").unlink()
    shared.remount()
    with open_descriptor(shared.path, os.O_RDONLY | os.O_DIRECTORY) as mount:
        descriptor = _open(mount, file)
        try:
            assert os.read(descriptor, 100) == b"content"
        finally:
            os.close(descriptor)
        descriptor = _open(mount, folder)
        try:
            assert os.listdir(descriptor) == ["file"]
            # Towards the root, of which the kernel knows nothing either.
            assert os.stat("../folder/file", dir_fd=descriptor).st_size == 7
        finally:
            os.close(descriptor)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            _open(mount, removed)


def _handle(path: Path) -> bytes:
    """Return the handle of a file as name_to_handle_at(2) gives it."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", _HANDLE_BYTES, 0), 8 + _HANDLE_BYTES)
    mount = ctypes.c_int()
    if _C.name_to_handle_at(-100, os.fsencode(path), handle, ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return handle.raw


def _open(mount: int, handle: bytes) -> int:
    """Open what a handle names; see open_by_handle_at(2)."""
    descriptor = int(_C.open_by_handle_at(mount, handle, os.O_RDONLY))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor
