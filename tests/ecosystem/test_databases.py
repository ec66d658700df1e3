"""Programs that keep databases: git, and sqlite3 as photo managers use it."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.ecosystem.programs import PATIENCE_SECONDS, needs, run, settle
from tests.mounting import MountedVolume, mark_fuse

pytestmark = mark_fuse()


@needs("git")
def test_git_keeps_a_repository(here: Path, shared: MountedVolume, library: Path, tmp_path: Path) -> None:
    git = ("git", "-c", "user.name=somebody", "-c", "user.email=nobody@localhost", "-c", "core.fsync=all")
    run(*git, "init", "-q", "-b", "main", cwd=here)
    for number in range(2):
        for photo in sorted(library.glob("*.jpg")):
            if not photo.is_symlink():
                (here / f"{number}-{photo.name}").write_bytes(photo.read_bytes())
        (here / "notes.txt").write_text(f"commit {number}\n")
        run(*git, "add", ".", cwd=here)
        run(*git, "commit", "-q", "-m", f"commit {number}", cwd=here)
    run(*git, "gc", "-q", "--aggressive", "--prune=now", cwd=here)
    settle(shared)
    run(*git, "fsck", "--full", "--strict", cwd=here)
    assert run(*git, "status", "--short", cwd=here) == ""
    run(*git, "clone", "-q", here, tmp_path / "clone")
    run(*git, "checkout", "-q", "HEAD~1", cwd=here)
    assert (here / "notes.txt").read_text() == "commit 0\n"
    run(*git, "checkout", "-q", "main", cwd=here)
    run(*git, "fsck", "--full", "--strict", cwd=tmp_path / "clone")


@needs("sqlite3")
def test_sqlite_in_wal_mode_survives_a_killed_writer(here: Path, shared: MountedVolume) -> None:
    database = here / "digikam4.db"
    run("sqlite3", database, "PRAGMA journal_mode=WAL; CREATE TABLE tags(name TEXT, number INTEGER);")
    insert = "INSERT INTO tags VALUES(printf('%.500c', 'x'), (SELECT coalesce(max(number), 0) + 1 FROM tags));\n"
    writer = subprocess.Popen(
        ["sqlite3", "-cmd", ".timeout 30000", str(database)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert writer.stdin is not None
    with writer.stdin:
        writer.stdin.write(b"PRAGMA synchronous=FULL;\n" + insert.encode() * 50)
        writer.stdin.flush()
        # A second process reads what the first has committed, through the shared memory beside the database.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while int(_ask(database, "SELECT count(*) FROM tags;")) < 50:
            assert time.monotonic() < deadline
        _ask(database, "INSERT INTO tags VALUES('from the second', 1000);")
        # In the middle of a transaction.
        writer.stdin.write(b"BEGIN;\n" + insert.encode() * 50 + b"SELECT 1;\n")
        writer.stdin.flush()
        while not (here / "digikam4.db-wal").stat().st_size:
            assert time.monotonic() < deadline
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert _ask(database, "PRAGMA integrity_check;") == "ok"
    assert _ask(database, "SELECT count(*), max(number) FROM tags;") == "51|1000"
    shared.remount()
    assert _ask(database, "PRAGMA integrity_check; SELECT count(*) FROM tags;").split() == ["ok", "51"]
    assert _ask(database, "PRAGMA journal_mode=DELETE; VACUUM; PRAGMA integrity_check;").split() == ["delete", "ok"]


def _ask(database: Path, question: str) -> str:
    return run("sqlite3", "-cmd", ".timeout 30000", database, question).strip()
