"""`dedupfs clusters`: which pictures a volume takes for versions of one."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dedupfs.cli.exitcodes import DONE
from dedupfs.cli.names import visible
from dedupfs.cli.opened import add_arguments, opened, shown
from dedupfs.errors import IntegrityError
from dedupfs.filesystem.survey import Survey, kind_of
from dedupfs.storage.records import Rendition


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "clusters",
        help="list the pictures that were taken for versions of one",
        description="List clusters of pictures that look the same. Without --json only those with more than one file.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the clusters."""
    with opened(options) as found:
        listed = list_clusters(Survey.of(found.volume))
    print(json.dumps(listed, indent=2) if options.json else _as_text(listed))
    return DONE


def list_clusters(survey: Survey) -> list[dict[str, Any]]:
    """Return every cluster with every path of its pictures, each path once."""
    volume = survey.volume
    listed = []
    for number in volume.clusters.all():
        try:
            representative = survey.paths(volume.clusters.get(number).representative)
        except IntegrityError:
            representative = []
        members = []
        for content_id in volume.clusters.members(number):
            content = volume.contents.sound(content_id)
            bit_exact = content.bit_exact if isinstance(content, Rendition) else content is not None
            kind = kind_of(content) if content is not None else "lost"
            members += [
                {"path": shown(path), "kind": kind, "bit_exact": bit_exact} for path in survey.paths(content_id)
            ]
        listed.append(
            {
                "cluster": number,
                "representative": shown(representative[0]) if representative else None,
                "members": sorted(members, key=lambda member: str(member["path"])),
            }
        )
    return listed


def _as_text(listed: list[dict[str, Any]]) -> str:
    groups = []
    for cluster in listed:
        if len(cluster["members"]) < 2:
            continue
        kept = visible(cluster["representative"] or "its original has been removed")
        lines = [f"cluster {cluster['cluster']}: {kept}"]
        for member in cluster["members"]:
            if member["path"] != cluster["representative"]:
                exact = " (identical bit for bit)" if member["bit_exact"] else ""
                lines.append(f"  {member['kind']}{exact}  {visible(member['path'])}")
        groups.append("\n".join(lines))
    return "\n".join(groups) if groups else "no two pictures look the same"
