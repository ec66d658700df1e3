"""Apart: the same bytes under different policies are different contents.

How a content is kept may change, for all files that hold it. A file that must come back bit for bit must therefore not
share one with a file of the same bytes for which a look-alike will do. A content's id follows from where its bytes are
cut into chunks: pictures under any but the volume's first policy are cut once more, near their start, which costs a
page each. Behind the metadata the chunks are the same again, and are stored once.

An original that is kept beside its rendition has a content of its own for the same reason.

Pure functions, any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from dedupfs.model import Policy

_CUT_BYTES = {Policy.VERIFIED: 16, Policy.PERCEPTUAL: 24, Policy.OFF: 32}
"""Where the additional cut is. A picture has two other cuts at most, so that moving past them leads to no other's."""


_ORIGINAL_CUT_BYTES = 40


def contents_apart(image_cuts: Sequence[int], policy: Policy, first_policy: Policy) -> Sequence[int]:
    """Return where to cut a picture under a policy, rising.

    Args:
        image_cuts: where its metadata and its coded image meet, at most two offsets, rising.
        first_policy: the policy that the volume's files were under until there was another one.
    """
    if policy is first_policy:
        return image_cuts
    return _cut_once_more(image_cuts, _CUT_BYTES[policy])


def original_apart(image_cuts: Sequence[int]) -> Sequence[int]:
    """Return where to cut a picture that is kept beside its rendition, rising."""
    return _cut_once_more(image_cuts, _ORIGINAL_CUT_BYTES)


def _cut_once_more(image_cuts: Sequence[int], cut: int) -> Sequence[int]:
    while cut in image_cuts:
        cut += 1
    return sorted({*image_cuts, cut})
