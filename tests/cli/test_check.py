"""`dedupfs check`: which paths suffer, what a repair does and says, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import passphrase as passphrases
from dedupfs.cli.main import main
from dedupfs.errors import DedupfsError
from dedupfs.storage import records
from dedupfs.storage.header import BACKUP_FILE, HEADER_FILE
from dedupfs.storage.lmdb_engine import LmdbEngine
from dedupfs.storage.lmdb_pages import PageFile
from dedupfs.storage.metadata import ROOT
from dedupfs.storage.records import Entry, number_key
from dedupfs.storage.volume import Volume
from tests.conftest import PASSPHRASE, reopen
from tests.storage.library import PICTURE, PLAIN, Library, make_library
from tests.storage.tree import stored_rows

COPY_PATH = "copy"
"""A rendition by its record alone: no library draws it, so that --data always finds it."""


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(passphrases.ENVIRONMENT_VARIABLE, os.fsdecode(PASSPHRASE))


@pytest.fixture
def library(volume_directory: Path) -> Library:
    """A volume with one of everything; it is closed when a command runs."""
    volume = reopen(volume_directory)
    made = make_library(volume)
    volume.store.commit()
    return made


def damage(volume: Volume, table: records.Table, key: bytes) -> None:
    """Flip the last bit of a record."""
    sealed = stored_rows(volume, table.name)[key]
    volume.store.engine.apply([(table.name, key, sealed[:-1] + bytes([sealed[-1] ^ 1]))])


def checked(capsys: pytest.CaptureFixture[str], directory: Path, *options: str) -> tuple[int, Any]:
    code = main(["check", str(directory), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], directory: Path, *options: str) -> tuple[int, list[str]]:
    code = main(["check", str(directory), *options])
    printed = capsys.readouterr()
    assert printed.err == ""
    return code, printed.out.splitlines()


PAGE_BYTES = 4096


def leaf_pages(directory: Path, table: str) -> list[int]:
    """Return the pages of a table that hold its records."""
    data = directory / "data.mdb"
    sound = data.read_bytes()
    found = []
    for number in range(2, len(sound) // PAGE_BYTES):
        damaged = bytearray(sound)
        damaged[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
        data.write_bytes(damaged)
        try:
            engine = LmdbEngine(directory, [each.name for each in records.TABLES], read_only=True)
        except DedupfsError:
            # The table of tables.
            continue
        try:
            if any(damage.page == number and damage.table == table for damage in engine.find_damage()):
                found.append(number)
        finally:
            engine.close()
    data.write_bytes(sound)
    return found


@pytest.mark.parametrize("table", ["inodes", "entries", "chunk_refs", "bands"])
def test_a_database_damaged_below_its_records_is_made_anew(
    library: Library, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    directory = library.volume.directory
    library.volume.close()
    number = leaf_pages(directory, table)[0]
    with (directory / "data.mdb").open("r+b") as file:
        file.seek(number * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    code, answer = checked(capsys, directory)
    assert code == 1
    assert any("below its records" in problem["problem"] for problem in answer["problems"])
    code, lines = said(capsys, directory, "--repair")
    assert any("made anew" in line for line in lines)
    assert (directory / "data.mdb.damaged").exists()
    code, answer = checked(capsys, directory)
    assert [problem["problem"] for problem in answer["problems"]] == []
    assert code == 0


def table_of_tables(directory: Path) -> int:
    """Return the page from which all tables are found."""
    pages = PageFile(directory / "data.mdb")
    try:
        return max((pages.meta(0), pages.meta(1)), key=lambda meta: meta.transaction).tables.page
    finally:
        pages.close()


@pytest.mark.parametrize("kept_bytes", [0, 16])
def test_a_database_that_has_lost_both_roots_is_made_anew(
    library: Library, capsys: pytest.CaptureFixture[str], kept_bytes: int
) -> None:
    """Of the commits that are still there as a whole the last one counts, and it is said that others may have been."""
    directory, tree = library.volume.directory, library.tree
    for number in range(6):
        tree.add(b"file %d" % number, b"bytes of a file " * 20)
        library.volume.store.commit()
    tree.remove(b"file 5")
    library.volume.store.commit()
    before = {table.name: stored_rows(library.volume, table.name) for table in records.TABLES}
    library.volume.close()
    with (directory / "data.mdb").open("r+b") as file:
        for number in (0, 1):
            file.seek(number * PAGE_BYTES + kept_bytes)
            file.write(bytes(PAGE_BYTES - kept_bytes))
    code, answer = checked(capsys, directory, "--repair")
    assert (code, answer["problems"]) == (1, [])
    assert ["its root was lost" in each["what"] for each in answer["gone"]] == [True]
    after = reopen(directory)
    try:
        for table in records.TABLES:
            if table is not records.VOLUME:
                assert stored_rows(after, table.name).keys() == before[table.name].keys(), table.name
    finally:
        after.close()


@pytest.mark.parametrize("how", ["zeroed", "a root that is none", "a flag"])
def test_a_database_that_has_lost_its_tables_is_made_anew(
    library: Library, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Every record tells which table it is from; what was removed or replaced before does not come back."""
    directory, tree = library.volume.directory, library.tree
    tree.add(b"removed", b"bytes of a file that is removed " * 20)
    library.volume.store.commit()
    tree.remove(b"removed")
    library.volume.store.commit()
    before = {table.name: stored_rows(library.volume, table.name) for table in records.TABLES}
    library.volume.close()
    page = bytearray(PAGE_BYTES)
    with (directory / "data.mdb").open("r+b") as file:
        file.seek(table_of_tables(directory) * PAGE_BYTES)
        if how != "zeroed":
            page[:] = file.read(PAGE_BYTES)
            at = page.index(b"inodes") + 6
            page[at + 40 if how.startswith("a root") else 10] ^= 0x42
            file.seek(-PAGE_BYTES, os.SEEK_CUR)
        file.write(page)
    assert main(["check", str(directory)]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "check --repair" in printed.err
    code, answer = checked(capsys, directory, "--repair")
    assert (code, answer["gone"], answer["problems"]) == (0, [], [])
    after = reopen(directory)
    try:
        for table in records.TABLES:
            if table is not records.VOLUME:
                assert stored_rows(after, table.name).keys() == before[table.name].keys(), table.name
        assert after.config == library.volume.config
    finally:
        after.close()


def test_every_path_of_a_damaged_file_is_named(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    damage(library.volume, records.CHUNKS, library.chunk(PLAIN))
    library.volume.close()
    directory = library.volume.directory
    code, report = checked(capsys, directory)
    assert (code, report["clean"]) == (0, True), "without --data nobody looks"
    code, report = checked(capsys, directory, "--data")
    assert code == 1
    assert report["unreadable"] == [COPY_PATH, "plain", "twin"]
    assert {"problem": "a file cannot be read whole", "paths": ["plain", "twin"], "mendable": False} in report[
        "problems"
    ]
    code, lines = said(capsys, directory, "--data")
    assert code == 1
    assert "  plain" in lines and "  twin" in lines
    assert "3 files cannot be read whole until the same bytes are copied into the volume again:" in lines


def test_versions_of_a_damaged_picture_are_named(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    damage(library.volume, records.CHUNKS, library.chunk(PICTURE))
    library.volume.close()
    assert checked(capsys, library.volume.directory, "--data")[1]["unreadable"] == [COPY_PATH, "picture"]


def test_a_lost_directory_names_everything_below_it(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    volume = library.volume
    with volume.store.transaction() as transaction:
        volume.metadata.delete_entry(transaction, ROOT, b"plain")
        entry = Entry(library.plain_inode, 0o100000, b"odd \xff\nname")
        volume.metadata.put_entry(transaction, library.directory, entry)
    volume.store.commit()
    damage(volume, records.INODES, number_key(library.directory))
    volume.close()
    code, report = checked(capsys, volume.directory)
    assert code == 1
    found = next(each for each in report["problems"] if each["problem"].startswith("a record of inodes is damaged"))
    assert found["paths"] == ["directory", "directory/odd \\xff\nname"]
    assert "  directory/odd \\xff\\nname" in said(capsys, volume.directory)[1], "one line a path, whatever it holds"


def test_a_lost_name_is_told_by_its_directory(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    volume = library.volume
    damage(volume, records.ENTRIES, volume.metadata.entry_key(ROOT, b"plain"))
    volume.close()
    paths = {path for each in checked(capsys, volume.directory)[1]["problems"] for path in each["paths"]}
    assert paths == {"?", f"#{library.plain_inode}"}


def test_a_dry_run_says_what_a_repair_does(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    volume = library.volume
    damage(volume, records.ENTRIES, volume.metadata.entry_key(ROOT, b"plain"))
    volume.close()
    before = (volume.directory / "data.mdb").read_bytes()
    code, lines = said(capsys, volume.directory, "--repair", "--dry-run")
    assert (code, lines[0]) == (1, "would be mended:")
    assert f"    lost+found/#{library.plain_inode}" in lines
    code, planned = checked(capsys, volume.directory, "--repair", "--dry-run")
    assert code == 1
    assert (volume.directory / "data.mdb").read_bytes() == before
    code, done = checked(capsys, volume.directory, "--repair")
    assert (done["mended"], done["gone"]) == (planned["mended"], planned["gone"])
    assert code == 1, "a name is gone"
    assert done["clean"]
    assert checked(capsys, volume.directory, "--repair") == (0, {**done, "mended": [], "gone": []})


def test_what_is_mended_without_loss_is_no_failure(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    damage(library.volume, records.CONTENT_REFS, library.plain)
    library.volume.close()
    assert checked(capsys, library.volume.directory)[0] == 1
    code, report = checked(capsys, library.volume.directory, "--repair")
    assert (code, report["clean"], report["gone"]) == (0, True, [])
    assert report["mended"]


def test_a_repair_keeps_failing_while_a_file_cannot_be_read(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(library.volume, records.CHUNKS, library.chunk(PLAIN))
    damage(library.volume, records.CONTENT_REFS, library.plain)
    library.volume.close()
    for _ in range(2):
        code, report = checked(capsys, library.volume.directory, "--repair", "--data")
        assert code == 1
        assert report["unreadable"] == [COPY_PATH, "plain", "twin"]
        assert not any(each["mendable"] for each in report["problems"])


def test_a_volume_without_a_configuration_is_repaired(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    damage(library.volume, records.VOLUME, b"config")
    damage(library.volume, records.VOLUME, b"counters")
    library.volume.close()
    directory = str(library.volume.directory)
    assert main(["stats", directory]) == 1
    assert "`dedupfs check --repair` makes a new one" in capsys.readouterr().err
    code, report = checked(capsys, library.volume.directory, "--repair")
    assert (code, report["clean"]) == (1, True)
    assert "the policy is verified from now on" in report["gone"][0]["what"]
    assert main(["stats", directory, "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["policy"], stats["files"], stats["clusters"]) == ("verified", 7, 1)


def test_a_volume_in_use_is_not_repaired(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(library.volume.directory)
    assert main(["check", directory, "--repair"]) == 4
    library.volume.close()
    capsys.readouterr()


def test_a_dry_run_of_nothing_is_a_usage_error(volume_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(volume_directory), "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_record(directory: Path) -> None:
    engine = LmdbEngine(directory, [table.name for table in records.TABLES])
    engine.apply([(records.HEADER.name, HEADER_FILE.encode(), None)])
    engine.close()


@pytest.mark.parametrize(
    ("hurt", "told"),
    [
        (lambda directory: flip(directory / HEADER_FILE), f"{HEADER_FILE} is missing or damaged"),
        (lambda directory: (directory / BACKUP_FILE).unlink(), f"{BACKUP_FILE} is missing or damaged"),
        (lose_record, f"the copy of {HEADER_FILE} in the database is missing or damaged"),
    ],
    ids=["file", "backup", "record"],
)
def test_each_copy_of_the_header_is_checked_and_renewed(
    library: Library, capsys: pytest.CaptureFixture[str], hurt: Callable[[Path], None], told: str
) -> None:
    directory = library.volume.directory
    library.volume.close()
    hurt(directory)
    code, found = checked(capsys, directory)
    assert (code, found["problems"]) == (1, [{"problem": told, "paths": [], "mendable": True}])
    code, found = checked(capsys, directory, "--repair", "--dry-run")
    assert (code, len(found["problems"])) == (1, 1)
    code, found = checked(capsys, directory, "--repair")
    assert (code, found["mended"]) == (0, [{"what": f"the copies of {HEADER_FILE} are renewed", "paths": []}])
    assert checked(capsys, directory)[0] == 0


def test_a_header_of_other_keys_is_told_and_left_to_a_restore(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older file was put back: a repair that made the others like it would let removed keys in again."""
    directory = library.volume.directory
    library.volume.close()
    old = (directory / HEADER_FILE).read_bytes()
    assert main(["key", "add", str(directory), "--recovery"]) == 0
    capsys.readouterr()
    (directory / HEADER_FILE).write_bytes(old)
    for option in ((), ("--repair",)):
        code, found = checked(capsys, directory, *option)
        assert (code, [each["mendable"] for each in found["problems"]]) == (1, [False])
        assert "header restore" in found["problems"][0]["problem"]
