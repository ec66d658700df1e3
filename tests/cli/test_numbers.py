"""Numbers for machines: metrics, stats that are watched, and --json wherever something is printed."""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedupfs.cli import metrics, watch
from dedupfs.cli.main import build_parser, main
from tests.mounting import MountedVolume, command_line, in_process, mark_fuse, with_passphrase, without_passphrase
from tests.test_json_page import documented
from tests.volumes import make_volume

WITHOUT_JSON = {
    "mount": "prints nothing",
    "umount": "prints nothing",
    "metrics": "prints for Prometheus",
    "completion": "prints for a shell",
}
_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
SAMPLE = re.compile(rf'({_NAME})\{{{_NAME}="((?:[^"\\\n]|\\["\\n])*)"\}} (-?\d+(?:\.\d+)?)')
"""Of the exposition format, version 0.0.4, as far as it is used."""


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command with its parser, those of two words too."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, each in action.choices.items():
            yield from commands(each, f"{name} {word}".strip())


def test_every_command_that_prints_has_json() -> None:
    without = {name for name, parser in commands(build_parser()) if "--json" not in parser._option_string_actions}
    assert without == WITHOUT_JSON.keys()


def samples(text: str) -> dict[str, float]:
    """Return the values of an exposition, which must be well-formed."""
    found: dict[str, float] = {}
    lines = iter(text.splitlines())
    for comment in lines:
        kind = next(lines)
        matched = SAMPLE.fullmatch(next(lines))
        assert matched is not None
        name = matched[1]
        assert comment.startswith(f"# HELP {name} ") and comment.endswith(".")
        assert kind == f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        found[name] = float(matched[3])
    return found


def test_metrics_of_a_volume(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / 'vol"ume\n')
    code, printed, said = in_process("metrics", volume)
    assert (code, said) == (0, "")
    found = samples(printed)
    assert (found["dedupfs_mounted"], found["dedupfs_files"]) == (0, 0)
    assert found["dedupfs_database_bytes"] > 0
    assert "dedupfs_waiting" not in found


def test_every_number_of_stats_is_a_metric(tmp_path: Path) -> None:
    stats = json.loads(in_process("stats", make_volume(tmp_path / "volume"), "--json")[1])
    told_otherwise = {"label", "policy", "format_version", "dedup_ratio", "representatives"}
    assert stats.keys() - told_otherwise <= {name for name, _, _ in metrics._METRICS}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    folder = tmp_path_factory.mktemp("live")
    mounted = MountedVolume(make_volume(folder / "volume"), folder / "mount", folder / "log")
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.destroy()
    assert mounted.unexpected_messages() == []


@pytest.mark.fuse
@mark_fuse()[1]
def test_a_live_mount_needs_no_passphrase(live: MountedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    (live.path / "file").write_bytes(bytes(range(256)) * 1000)
    assert (live.path / "file").read_bytes()
    done = subprocess.run(
        command_line("metrics", live.path), env=without_passphrase(), capture_output=True, text=True, check=True
    )
    found = samples(done.stdout)
    assert found["dedupfs_mounted"] == 1
    assert found["dedupfs_logical_bytes"] == found["dedupfs_written_bytes_total"] == 256_000
    assert found["dedupfs_requests_total"] > 3
    assert found["dedupfs_open_files"] == 0


@pytest.mark.fuse
@mark_fuse()[1]
def test_a_live_mount_tells_its_statistics_without_a_passphrase(live: MountedVolume) -> None:
    """Those of now: those of the last commit may be a second old."""
    (live.path / "just written").write_bytes(b"text")

    def told(*arguments: str) -> str:
        command = command_line("stats", live.path, *arguments)
        return subprocess.run(command, env=without_passphrase(), capture_output=True, text=True, check=True).stdout

    figures = json.loads(told("--json"))
    assert figures["files"] == len(list(live.path.iterdir()))
    assert {"waiting", "waiting_bytes", "open_files", "read_bytes", "written_bytes"} <= figures.keys()
    assert json.loads(in_process("stats", live.volume, "--json")[1]).keys() <= figures.keys()
    printed = told()
    assert re.search(r"^waiting +\d+ files, [\d.]+ MB in memory$", printed, re.MULTILINE)
    assert re.search(r"^traffic +[\d.]+ MB read, [\d.]+ MB written in \d+ (s|min)$", printed, re.MULTILINE)


@pytest.mark.fuse
@mark_fuse()[1]
def test_watching_a_mount(live: MountedVolume) -> None:
    process = subprocess.Popen(
        command_line("stats", live.path, "--json", "--watch", "0.3"),
        env=without_passphrase(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        (live.path / "another").write_bytes(b"b" * 100_000)
        deadline = time.monotonic() + 60
        while (now := json.loads(process.stdout.readline()))["written_bytes"] == first["written_bytes"]:
            assert time.monotonic() < deadline
        assert now["written_bytes"] == first["written_bytes"] + 100_000
        assert now["written_bytes_per_second"] > 0
        always, sometimes = documented("stats")
        assert now.keys() == always | sometimes
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_watching_a_volume(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "volume")
    process = subprocess.Popen(
        command_line("stats", volume, "--watch", "0.1"), env=with_passphrase(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        shown = [process.stdout.readline() for _ in range(20)]
        assert shown.count("policy       verified\n") >= 2
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_there_must_be_something_to_watch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert in_process("stats", tmp_path, "--watch", "1")[0] == 5
    with pytest.raises(SystemExit) as usage:
        main(["stats", "--watch", str(tmp_path)])
    assert usage.value.code == 2
    assert "VOLUME comes before --watch" in capsys.readouterr().err


def test_a_terminal_shows_them_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    looks: list[dict[str, Any]] = [{"files": 1}, {"files": 2}]

    def look() -> dict[str, Any]:
        if not looks:
            raise KeyboardInterrupt
        return looks.pop(0)

    watch.watch(look, 0.001, as_json=False, as_text=lambda figures: f"files {figures['files']}\nsecond line")
    assert terminal.getvalue() == "files 1\nsecond line\n\x1b[2F\x1b[Jfiles 2\nsecond line\n"


def test_rates_are_those_of_one_mount() -> None:
    before = {"pid": 1, "mounted_seconds": 10.0, "requests": 5, "read_bytes": 0, "written_bytes": 1000}
    now = {"pid": 1, "mounted_seconds": 12.0, "requests": 9, "read_bytes": 0, "written_bytes": 5000}
    assert watch.rates(before, now) == {
        "requests_per_second": 2.0,
        "read_bytes_per_second": 0.0,
        "written_bytes_per_second": 2000.0,
    }
    assert watch.rates(None, now) == watch.rates(before | {"pid": 2}, now) == watch.rates({"files": 1}, now) == {}
