"""Groups of files of a volume that rest on one of them, for the commands that show them. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from dedupfs.errors import IntegrityError
from dedupfs.filesystem.survey import Survey
from dedupfs.ingest.facts import PictureFacts
from dedupfs.ingest.groups import CopyKind, Group, Kept, Look, Measured, Version, by_savings, rendition_kind
from dedupfs.ingest.recipe import Recipe
from dedupfs.model import ClusterId, ContentId
from dedupfs.storage.chunks import stored_size
from dedupfs.storage.records import Exact, Extent, Rendition


def groups_of(survey: Survey) -> list[Group]:
    """Return the groups of more than one file, those that save most first.

    A mount may go on deciding meanwhile; what has gone since the survey is left out.
    Raises:
        IntegrityError: a record is damaged.
    """
    volume = survey.volume
    groups = []
    for cluster in volume.clusters.all():
        try:
            groups.append(_cluster(survey, cluster))
        except IntegrityError:
            if volume.clusters.find(cluster) is not None:
                raise
    for content_id in survey.by_content:
        content = volume.contents.find(content_id)
        if isinstance(content, Exact) and content.cluster is None:
            paths = _paths(survey, content_id)
            kept = Kept(paths[0], content_id, content.layout.size, None)
            groups.append(Group(kept, _duplicates(kept, paths[1:])))
    return by_savings(groups)


def _cluster(survey: Survey, cluster: ClusterId) -> Group:
    volume = survey.volume
    record = volume.clusters.get(cluster)
    base = volume.contents.get(record.representative)
    if not isinstance(base, Exact):
        raise IntegrityError("a representative is not stored exactly")
    look = _look(record.facts)
    paths = _paths(survey, record.representative)
    kept = Kept(paths[0] if paths else None, record.representative, base.layout.size, look)
    versions = _duplicates(kept, paths[1:])
    for member in volume.clusters.members(cluster):
        paths = _paths(survey, member)
        if member == record.representative or not paths:
            continue
        content = volume.contents.find(member)
        if content is None:
            continue
        if isinstance(content, Rendition):
            recipe = Recipe.from_bytes(content.recipe)
            own = Look(recipe.picture_format, recipe.width_px, recipe.height_px)
            measured = Measured(content.differences, content.distance_bits, content.bit_exact)
            kind, stored_bytes = rendition_kind(look, own), _stored(content.own.extents)
            first = Version(paths[0], member, content.size, own, kind, stored_bytes, measured)
        else:
            shared = {extent.chunk for extent in base.layout.extents}
            stored_bytes = _stored(extent for extent in content.layout.extents if extent.chunk not in shared)
            first = Version(paths[0], member, content.layout.size, look, CopyKind.METADATA, stored_bytes, None)
        versions += [first, *_duplicates(first, paths[1:])]
    return Group(kept, versions)


def _paths(survey: Survey, content: ContentId) -> list[bytes]:
    """Return one path of every file that holds the content; further names of one file save nothing."""
    files = sorted(survey.by_content.get(content, []), key=lambda file: file.path)
    return list({file.number: file.path for file in reversed(files)}.values())[::-1]


def _duplicates(of: Kept | Version, paths: Iterable[bytes]) -> list[Version]:
    measured = of.measured if isinstance(of, Version) else None
    return [Version(path, of.content, of.size, of.look, CopyKind.EXACT, 0, measured) for path in paths]


def _stored(extents: Iterable[Extent]) -> int:
    return sum(stored_size(extent.length) for extent in extents)


def _look(facts: bytes) -> Look | None:
    if not facts:
        return None
    seen = PictureFacts.from_bytes(facts)
    return Look(seen.picture_format, seen.width_px, seen.height_px)
