"""What a search for a rendition ends in.

Plain values that travel between processes. Any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from dedupfs.model import Differences


@dataclass(frozen=True, slots=True)
class Fit:
    """A rendition was found.

    `recipe` and `own` go to `render`; `digest` is the SHA-256 of the rendition, `sketch` what it looks like
    (see `dedupfs.ingest.sketch`); `bit_exact` says that it is the member to the last byte. `differences` were measured
    between the decoded rendition and the decoded member.
    """

    recipe: bytes
    own: bytes
    differences: Differences
    bit_exact: bool
    digest: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class Misfit:
    """No rendition; `reason` is one of the REASON_ constants, `differences` those of the closest attempt, if any."""

    reason: str
    differences: Differences | None


REASON_FORMAT = "format"
"""The member is of a sort that cannot be encoded again."""
REASON_DECODE = "decode"
"""The representative does not decode."""
REASON_OWN = "own"
"""The member is mostly metadata: a reference would save next to nothing."""
REASON_ASPECT = "aspect"
"""Perceptual policy only: another aspect ratio."""
REASON_PIXELS = "pixels"
"""They do not look the same."""
REASON_SIZE = "size"
"""No encoding of the rendition fits the written size."""
REASON_INEXACT = "inexact"
"""Only a rendition to the last byte was asked for, and the windows already differ."""
REASON_REVERSE = "reverse"
"""A lossy member with exactly the pixels of a lossless representative: render the representative from it instead."""
