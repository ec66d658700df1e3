"""Copy photos into a throw-away volume and show what became of them: the Python part of scripts/demo."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo_photos import LOOK_ALIKES, make_collection
from PIL import Image
from throwaway import CommandError, ThrowawayVolume, copy, throwaway_volume
from trees import digest, files_below, relative

SHIPPED_PHOTOS = Path(__file__).parents[1] / "tests" / "photos"

# A library has thousands of clusters; these many of each are enough to see the pattern.
CLUSTERS_SHOWN = 12
MEMBERS_SHOWN = 12

BAR_WIDTH = 44


def main() -> int:
    description = "Copy photos into a throw-away volume and show what became of them."
    parser = argparse.ArgumentParser(prog="scripts/demo", description=description)
    parser.add_argument(
        "photo_folder", nargs="?", type=Path, help="your photos, which are only read (default: six that come along)"
    )
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # file names can hold any byte
    try:
        with throwaway_volume("demo") as volume:
            return demonstrate(volume, options.photo_folder)
    except KeyboardInterrupt:
        print("\ninterrupted; unmounted and cleaned up", file=sys.stderr)
        return 130
    except (CommandError, OSError) as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1


def demonstrate(volume: ThrowawayVolume, folder: Path | None) -> int:
    if folder is None:
        photos = volume.folder / "photos"
        count = make_collection(SHIPPED_PHOTOS, photos)
        heading("dedupfs demo")
        print(f"{count} photos that come with dedupfs, and the versions of them that gather in a real library:")
        print("sent by messenger, exported, converted, re-tagged, backed up; and some that only look alike.")
    else:
        photos = folder.resolve()
        if not photos.is_dir():
            raise NotADirectoryError(f"not a folder: {folder}")
        heading(f"dedupfs demo: {folder}")
    sizes = {name: (photos / name).lstat().st_size for name in files_below(photos)}
    if not sizes:
        raise FileNotFoundError(f"no files in {folder}")
    written = sum(sizes.values())
    if written > shutil.disk_usage(volume.folder).free:
        raise OSError(
            f"{amount(written)} of photos do not fit into {tempfile.gettempdir()}; point TMPDIR to a larger disk"
        )

    print()
    step("dedupfs init", "a new encrypted volume, random passphrase", lambda: volume.init("verified"))
    step("dedupfs mount", "it is a folder now", lambda: volume.run("mount", volume.volume, volume.mountpoint))
    step(
        "cp -a photos/. mount/",
        f"{len(sizes)} files, {amount(written)}",
        lambda: copy(["-a", f"{photos}/.", volume.mountpoint]),
    )
    step("dedupfs umount", "everything decided and on the disk", volume.unmount)

    stats = volume.report("stats")
    clusters = volume.report("clusters")
    show_space(stats, written)
    show_clusters(photos, clusters)
    good = show_look_alikes(clusters) if folder is None else True
    with volume.mounted("--read-only") as mountpoint:
        good = show_proof(photos, mountpoint, list(sizes), clusters) and good
    print("\nUnmounted; the volume and the temporary folder go away now.")
    return 0 if good else 1


def show_space(stats: dict[str, Any], written: int) -> None:
    heading("Space")
    stored = stats["stored_bytes"]
    for label, size, what in (
        ("written", written, f"{stats['files']} files"),
        ("stored", stored, "ciphertext"),
    ):
        bar = "█" * max(1, round(BAR_WIDTH * size / max(written, stored)))
        print(f"  {label:8} {bar:{BAR_WIDTH}}  {amount(size):>8}  {what}")
    saved = 1 - stored / written if written else 0.0
    print(f"  {'':8} {bold(f'{saved:.0%} saved')}: {stats['dedup_ratio']:.1f} bytes of photos for each byte stored")
    if stats["renditions"]:
        share = stats["bit_exact_renditions"] / stats["renditions"]
        print(f"\n  {stats['renditions']} files are renditions: drawn anew, when read, from one that looks the same.")
        others = "" if share == 1 else ", the others within limits that no eye sees"
        print(f"  {share:.0%} of them come back identical to the last byte{others}.")
    print(f"  {stats['exact_duplicates']} files are exact copies of another one.")


def show_clusters(photos: Path, clusters: list[dict[str, Any]]) -> None:
    shared = sorted((c for c in clusters if len(c["members"]) > 1), key=lambda c: -len(c["members"]))
    heading(f"Pictures that are there in several versions: {len(shared)}")
    for cluster in shared[:CLUSTERS_SHOWN]:
        representative = relative(cluster["representative"])
        print(f"\n  {'kept':28}{bold(describe(photos, representative))}")
        others = [member for member in cluster["members"] if relative(member["path"]) != representative]
        for member in others[:MEMBERS_SHOWN]:
            path = relative(member["path"])
            print(f"  {how_kept(photos, member, representative):28}{describe(photos, path)}")
        if len(others) > MEMBERS_SHOWN:
            print(f"  {'':28}and {len(others) - MEMBERS_SHOWN} more")
    if len(shared) > CLUSTERS_SHOWN:
        print(f"\n  and {len(shared) - CLUSTERS_SHOWN} more")
    print(f"\n  {len(clusters) - len(shared)} other pictures have no second version here.")


def how_kept(photos: Path, member: dict[str, Any], representative: str) -> str:
    if member["kind"] == "rendition":
        return "rendition, the same bytes" if member["bit_exact"] else "rendition, looks the same"
    if member["kind"] == "undecided":
        return "whole (not decided yet)"
    path = relative(member["path"])
    same = (photos / path).read_bytes() == (photos / representative).read_bytes()
    return "exact copy" if same else "whole, pieces shared"


def show_look_alikes(clusters: list[dict[str, Any]]) -> bool:
    """Say of every edited photo whether it was kept apart from the photo it was made of."""
    together = {
        relative(member["path"]): {relative(other["path"]) for other in cluster["members"]} - {relative(member["path"])}
        for cluster in clusters
        for member in cluster["members"]
    }
    heading("Pictures that only look alike")
    good = True
    for kind in LOOK_ALIKES:
        merged = sorted(path for path in together if path.startswith(f"edited/{kind}/") and together[path])
        good = verdict(not merged, f"{kind}: {'kept apart' if not merged else 'MERGED: ' + ', '.join(merged)}") and good
    return good


def show_proof(photos: Path, mountpoint: Path, names: list[str], clusters: list[dict[str, Any]]) -> bool:
    """Compare every file of the mount with the one that was copied, and say what was found."""
    renditions = {
        relative(member["path"])
        for cluster in clusters
        for member in cluster["members"]
        if member["kind"] == "rendition"
    }
    tally = Tally()
    for name in names:
        compare(photos / name, mountpoint / name, name in renditions, tally)
    heading("Proof: mounted again, read-only, and compared with the files that were copied")
    total, exact = len(names), len(names) - len(renditions)
    results = [
        verdict(tally.attributes == total, f"{tally.attributes} of {total} files have their size, time and mode"),
        verdict(tally.exact == exact, f"{tally.exact} of {exact} files stored whole are the same byte for byte"),
    ]
    if renditions:
        text = f"{tally.pictures} of {len(renditions)} renditions have their format and pixel dimensions"
        results.append(verdict(tally.pictures == len(renditions), text))
        print(f"    {tally.exact_renditions} of {len(renditions)} renditions are the same byte for byte, too")
    for problem in tally.problems[:10]:
        print(f"    {problem}")
    return all(results)


@dataclass
class Tally:
    """How many files passed each comparison, and what is wrong with the others."""

    attributes: int = 0
    exact: int = 0
    pictures: int = 0
    exact_renditions: int = 0
    problems: list[str] = field(default_factory=list)


def compare(original: Path, returned: Path, is_rendition: bool, tally: Tally) -> None:
    try:
        before, after = original.lstat(), returned.lstat()
        if (before.st_size, before.st_mtime_ns, before.st_mode) == (after.st_size, after.st_mtime_ns, after.st_mode):
            tally.attributes += 1
        else:
            tally.problems.append(f"{returned.name}: size, time or mode differ")
        same = digest(original) == digest(returned)
        if not is_rendition:
            tally.exact += same
            if not same:
                tally.problems.append(f"{returned.name}: other bytes than were written")
            return
        tally.exact_renditions += same
        with Image.open(original) as written, Image.open(returned) as read:
            read.load()
            if (written.format, written.size) == (read.format, read.size):
                tally.pictures += 1
            else:
                tally.problems.append(
                    f"{returned.name}: {written.format} {written.size} became {read.format} {read.size}"
                )
    except OSError as error:
        tally.problems.append(f"{returned.name}: {error}")


def describe(photos: Path, path: str) -> str:
    size = amount((photos / path).stat().st_size)
    try:
        with Image.open(photos / path) as picture:
            return f"{path} · {picture.format} {picture.width} x {picture.height} · {size}"
    except OSError:
        return f"{path} · {size}"


def amount(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1e3:.0f} kB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"


def step(command: str, explanation: str, action: Callable[[], object]) -> None:
    print(f"  {command:24}", end="", flush=True)
    start = time.monotonic()
    try:
        action()
    except BaseException:
        print()  # what follows starts on a line of its own
        raise
    print(f"{time.monotonic() - start:7.1f} s   {explanation}")


def heading(text: str) -> None:
    print(f"\n{bold(text)}\n{'─' * len(text)}")


def verdict(good: bool, text: str) -> bool:
    print(f"  {'✓' if good else '✗'} {text}")
    return good


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


if __name__ == "__main__":
    sys.exit(main())
