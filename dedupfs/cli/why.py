"""`dedupfs why`: what one file is, which picture it rests on and what was measured, or why it rests on none."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.live import live_figures
from dedupfs.cli.mounts import mountpoint_above
from dedupfs.cli.names import visible
from dedupfs.cli.opened import Opened, add_arguments, opened, shown
from dedupfs.cli.stats import day, human_bytes
from dedupfs.errors import EntryNotFoundError, IngestError, NamespaceError, UsageError
from dedupfs.filesystem.memory import DEFAULT_BYTES, Shares, shares_of
from dedupfs.filesystem.policies import Policies
from dedupfs.filesystem.survey import Survey, SurveyedFile, find, kind_of
from dedupfs.filesystem.whereabouts import Whereabouts
from dedupfs.ingest.gate import Gate
from dedupfs.ingest.reasons import Attempt, Reason, why_apart
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import Policy
from dedupfs.storage.chunks import stored_size
from dedupfs.storage.records import ContentState, Exact, Rendition
from dedupfs.storage.volume import Volume

_PLAIN = {
    "fine luma of a small picture": "brightness at a point, for one so small",
    "fine luma": "brightness at a point",
    "fine chroma": "colour at a point",
    "coarse luma": "brightness over an area",
    "coarse chroma": "colour over an area",
    "broad luma": "brightness over a wide area",
    "broad chroma": "colour over a wide area",
    "detail": "sharpness",
    "alpha": "transparency",
}
"""What is measured when pictures are compared (ingest.verify), in words for somebody who has not read of it."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "why",
        help="explain how one file is kept",
        description="Say what a file is, which picture it rests on, and what was measured when they were compared."
        " Of a picture that rests on no other one, say why not: it is compared with the nearest one again."
        " A PATH below a mountpoint needs nothing else; any other is one inside VOLUME.",
    )
    add_arguments(parser, optional=True)
    parser.add_argument("path", metavar="PATH", help="in the volume, or below its mountpoint")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain one file."""
    if options.volume is None:
        options.volume = mountpoint_above(Path(options.path).absolute())
        if options.volume is None:
            raise UsageError(f"{options.path} is below no mountpoint of dedupfs; name its volume in front of it")
    with opened(options) as found:
        path = _inside(found, options.path)
        try:
            file = find(found.volume, path)
        except NamespaceError as exc:
            raise EntryNotFoundError(f"{options.path}: {exc}") from exc
        answer = explain(found.volume, file)
        policy = Policies(found.volume, Whereabouts(found.volume)).of_file(file.number)
        live = None if found.mountpoint is None else live_figures(found.mountpoint)
        memory = shares_of((live or {}).get("memory_limit_bytes", DEFAULT_BYTES))
        answer.update(policy=policy.value, **_why_apart(found.volume, file, policy, memory))
    print(json.dumps(answer, indent=2) if options.json else _as_text(answer))
    return DONE


def explain(volume: Volume, file: SurveyedFile) -> dict[str, Any]:
    """Return everything that is known of how a file is kept."""
    survey = Survey.of(volume)
    content_id = file.inode.content
    content = volume.contents.get(content_id) if content_id is not None else None
    answer: dict[str, Any] = {
        "path": shown(file.path),
        "kind": kind_of(content),
        "size": file.inode.size,
        "exact_duplicates": 0,
        "cluster": None,
        "representative": None,
        "distance_bits": None,
        "max_luma_difference": None,
        "max_chroma_difference": None,
        "max_tone_difference": None,
        "bit_exact": True,
        "undecodable": isinstance(content, Exact) and content.state is ContentState.UNDECODABLE,
        "stored_bytes": 0,
        "original_until_s": None,
    }
    if content is None or content_id is None:
        return answer
    paths = survey.paths(content_id)
    answer["exact_duplicates"] = len(paths) - 1
    layout = content.layout if isinstance(content, Exact) else content.own
    answer["stored_bytes"] = sum(stored_size(extent.length) for extent in layout.extents)
    if content.cluster is not None:
        answer["cluster"] = content.cluster
        representative = volume.clusters.get(content.cluster).representative
        answer["representative"] = next(map(shown, survey.paths(representative)), None)
    if isinstance(content, Rendition):
        differences = content.differences
        answer.update(
            distance_bits=content.distance_bits,
            max_luma_difference=round(differences.fine_luma, 3),
            max_chroma_difference=round(differences.fine_chroma, 3),
            max_tone_difference=round(max(differences.coarse_luma, differences.coarse_chroma), 3),
            bit_exact=content.bit_exact,
        )
        kept = volume.kept.find(content_id)
        answer["original_until_s"] = None if kept is None else kept.until_ns // 10**9
    return answer


def _why_apart(volume: Volume, file: SurveyedFile, policy: Policy, memory: Shares) -> dict[str, Any]:
    """Return why a file is no version of another picture; nothing but None where it is one, or is the same image.

    It is compared again with as much memory as the mount has for that, or would have by default.
    """
    answer: dict[str, Any] = dict.fromkeys(("reason", "nearest", "nearest_distance_bits", "comparisons"))
    content_id = file.inode.content
    content = volume.contents.get(content_id) if content_id is not None else None
    if content_id is None or not isinstance(content, Exact):
        return answer
    if content.cluster is not None and volume.clusters.get(content.cluster).representative != content_id:
        return answer
    pool = WorkerPool(1, memory=Gate(memory.jobs))
    try:
        reason = why_apart(volume, pool, content_id, content, policy)
    except IngestError as exc:
        reason = Reason(f"could not be compared: {exc}")
    finally:
        pool.close()
    answer["reason"] = reason.text
    if reason.nearest is not None:
        paths = Survey.of(volume).paths(reason.nearest.representative)
        answer["nearest"] = next(map(shown, paths), None)
        answer["nearest_distance_bits"] = reason.nearest.distance_bits
    answer["comparisons"] = [_comparison(attempt) for attempt in reason.attempts]
    return answer


def _comparison(attempt: Attempt) -> dict[str, Any]:
    misfit = attempt.misfit
    differences = misfit.differences
    return {
        "drawn": "this" if attempt.draws_newcomer else "nearest",
        "outcome": misfit.explained(),
        "reason": misfit.reason,
        "limit": misfit.limit or None,
        "excess": round(misfit.excess, 3) if misfit.excess else None,
        "max_luma_difference": None if differences is None else round(differences.fine_luma, 3),
        "max_chroma_difference": None if differences is None else round(differences.fine_chroma, 3),
    }


def _inside(found: Opened, path: str) -> bytes:
    """Return the path relative to the volume's root; an absolute one may lie below the mountpoint."""
    given = os.fsencode(path)
    if found.mountpoint is not None:
        root = os.fsencode(os.path.realpath(found.mountpoint))
        absolute = os.fsencode(os.path.realpath(Path(path).parent)) + b"/" + os.path.basename(given)
        if absolute.startswith(root + b"/"):
            return absolute[len(root) + 1 :]
    return given


def _as_text(answer: dict[str, Any]) -> str:
    lines = [f"{visible(answer['path'])}: {human_bytes(answer['size'])}"]
    representative = visible(answer["representative"] or "")
    if answer["kind"] == "plain":
        lines.append("  stored bit for bit")
    elif answer["kind"] == "undecided":
        lines.append("  a picture stored bit for bit; whether it is a copy is still to be decided")
    elif answer["kind"] == "picture":
        lines.append(f"  a picture stored bit for bit, of cluster {answer['cluster']}")
        if answer["representative"] != answer["path"]:
            lines.append(f"  the cluster is kept as {representative or 'a file that has been removed'}")
    else:
        lines.append(f"  another version of {representative or 'a picture whose file has been removed'}")
        if answer["bit_exact"]:
            lines.append("  what is read is what was written, bit for bit")
        else:
            lines.append(
                "  what is read looks the same everywhere: it differs by at most"
                f" {answer['max_luma_difference']:.1f} of 255 levels in brightness and"
                f" {answer['max_chroma_difference']:.1f} in colour, {answer['max_tone_difference']:.1f} over an area"
            )
        if answer["original_until_s"] is not None:
            lines.append(f"  the bytes that were written are kept until {day(answer['original_until_s'])}")
        lines.append(f"  fingerprints {answer['distance_bits']} of 256 bits apart")
    lines += _reasons(answer)
    lines.append(f"  takes {human_bytes(answer['stored_bytes'])} of its own")
    if answer["exact_duplicates"]:
        others = answer["exact_duplicates"]
        lines.append(f"  {others} other {'file holds' if others == 1 else 'files hold'} the same bytes")
    return "\n".join(lines)


def _reasons(answer: dict[str, Any]) -> list[str]:
    if answer["reason"] is None:
        return []
    lines = [f"  {visible(answer['reason'])}"]
    if answer["nearest_distance_bits"] is not None:
        nearest = visible(answer["nearest"] or "a picture whose file has been removed")
        lines.append(f"  the nearest is {nearest}: fingerprints {answer['nearest_distance_bits']} of 256 bits apart")
    for each in answer["comparisons"] or ():
        drawn, base = ("this one", "the nearest") if each["drawn"] == "this" else ("the nearest", "this one")
        lines.append(f"  {drawn}, drawn from {base}, {visible(_plainly(each['outcome']))}")
        if each["max_luma_difference"] is not None:
            luma, chroma = each["max_luma_difference"], each["max_chroma_difference"]
            lines.append(f"    at most {luma:.1f} of 255 levels apart in brightness and {chroma:.1f} in colour")
    return lines


def _plainly(outcome: str) -> str:
    """Return what became of a comparison in words of people, where it is told in those of measurements."""
    for measured, plain in _PLAIN.items():
        outcome = outcome.replace(f"too much in {measured},", f"too much in {plain},")
    return outcome
