"""What a search for a rendition ends in.

Plain values that travel between processes. Any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from dedupfs.model import Differences

NO_DIFFERENCE = Differences(0.0, 0.0, 0.0, 0.0, 0.0)


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
    """No rendition, and why.

    Attributes:
        reason: one of the REASON_ constants.
        differences: those of the closest attempt that was compared as a whole, if any.
        limit: the measurement that was furthest over its limit in the closest attempt, or how the attempts ended before
            a whole picture was compared: LIMIT_PREVIEW, LIMIT_FILTER, LIMIT_WINDOW, LIMIT_DETAIL, LIMIT_TILES,
            LIMIT_GREY. Empty: none was.
        excess: that measurement over its limit, 0 where it has no number.
        missing_bytes: REASON_SIZE: by how much the smallest encoding was too large.
        note: REASON_FORMAT, REASON_DECODE and REASON_MEMORY: what stood in the way, in a few words.
        both_ways: REASON_PIXELS: the representative cannot be drawn from the member either, for the same reason.
    """

    reason: str
    differences: Differences | None
    limit: str = ""
    excess: float = 0.0
    missing_bytes: int = 0
    note: str = ""
    both_ways: bool = False

    @property
    def at_a_glance(self) -> bool:
        """Whether they were told apart before whole pictures were compared."""
        return self.reason == REASON_ASPECT or (self.reason == REASON_PIXELS and self.limit in _ENDED_EARLY)

    def explained(self) -> str:
        """Return the reason as a part of a sentence, for people."""
        if self.reason == REASON_SIZE:
            if not self.missing_bytes:
                return "does not come out at the written size"
            return f"does not fit the written size, by {self.missing_bytes:,} bytes"
        if self.reason == REASON_PIXELS and self.limit in _ENDED_EARLY:
            times = f", {self.excess:.1f} times what is allowed" if self.excess else ""
            return _ENDED_EARLY[self.limit] + times
        if self.reason == REASON_PIXELS and self.limit:
            return f"differs too much in {self.limit}, {self.excess:.2f} times what is allowed"
        said = _EXPLAINED.get(self.reason, self.reason)
        return f"{said}: {self.note}" if self.note else said


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
REASON_MEMORY = "memory"
"""To compare them would take more memory than the mount allows."""
REASON_REVERSE = "reverse"
"""A lossy member with exactly the pixels of a lossless representative: render the representative from it instead."""

LIMIT_PREVIEW = "preview"
LIMIT_FILTER = "filter"
LIMIT_WINDOW = "window"
LIMIT_DETAIL = "detail of windows"
LIMIT_TILES = "tiles"
LIMIT_GREY = "grey"

_ENDED_EARLY = {
    LIMIT_PREVIEW: "differs at first sight",
    LIMIT_FILTER: "was not resized in a known way",
    LIMIT_WINDOW: "differs where it has most detail",
    LIMIT_DETAIL: "is softer or sharper, or has more noise or less",
    LIMIT_TILES: "differs in the tone or colour of some part",
    LIMIT_GREY: "would lose colour",
}

_EXPLAINED = {
    REASON_FORMAT: "cannot be encoded again",
    REASON_DECODE: "the other picture cannot be used",
    REASON_OWN: "is mostly metadata",
    REASON_ASPECT: "has another aspect ratio",
    REASON_PIXELS: "does not look the same",
    REASON_INEXACT: "would not come back to the last byte",
    REASON_MEMORY: "is too large to be compared",
    REASON_REVERSE: "the other picture can be drawn from it to the last byte",
}
