"""Rounding as other encoders do it: in sheets, with the same result as in one."""

from __future__ import annotations

import numpy as np
import pytest

from dedupfs.ingest import jpeg_rounding
from dedupfs.ingest.jpeg_rounding import Rounding, rounded
from tests.ingest.drawing import photo


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2)])
def test_a_picture_of_several_sheets(mode: str, factors: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    table = tuple(int(step) for step in random.integers(1, 40, 64))
    image = photo(2, (333, 271)).convert(mode)
    for rounding in Rounding:
        whole = rounded(image, (table, table), factors, rounding)
        assert whole.size == image.size
        with monkeypatch.context() as patched:
            patched.setattr(jpeg_rounding, "_SHEET_ROWS", 64)
            assert rounded(image, (table, table), factors, rounding).tobytes() == whole.tobytes()
