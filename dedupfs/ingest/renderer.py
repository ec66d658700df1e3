"""Renderer: brings a rendition's bytes back when somebody reads it, and proves that they are the verified ones.

The bytes are made by a worker from the representative's exact bytes, the recipe and the member's own metadata, and are
held against the digest recorded when the rendition was compared with the picture that was written. Other versions of
the image libraries, or another processor, may round otherwise: then the bytes count if they come out the same twice and
look like the verified ones. The ones made last are kept in memory, up to a bound, so that a gallery moving back and
forth stays quick.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable

import PIL
from PIL import features

from dedupfs.errors import IngestError, IntegrityError
from dedupfs.ingest.sketch import alike
from dedupfs.ingest.workers import WorkerPool
from dedupfs.storage.contents import Contents
from dedupfs.storage.records import Exact, Layout, Rendition

log = logging.getLogger(__name__)

CACHE_BYTES = 64 << 20
LOOKED_AT = 500
"""So many contents tell whether the libraries have changed since renditions were made; opening them takes 15 ms."""


class Renderer:
    """Reads renditions. Safe from any thread; owns its worker, so that reading never waits for ingest."""

    def __init__(self, contents: Contents, pool: WorkerPool, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._contents = contents
        self._pool = pool
        self._limit_bytes = cache_bytes
        self._size_bytes = 0
        self._has_told = False
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def render(self, rendition: Rendition) -> bytes:
        """Return the rendition's bytes.

        Raises:
            IntegrityError: the representative is damaged, or the libraries of this machine make another picture than
                the one that was verified.
        """
        with self._lock:
            data = self._cache.get(rendition.digest)
            if data is not None:
                self._cache.move_to_end(rendition.digest)
                return data
        data = self._make(rendition)
        with self._lock:
            if rendition.digest not in self._cache:
                self._cache[rendition.digest] = data
                self._size_bytes += len(data)
            while self._size_bytes > self._limit_bytes:
                self._size_bytes -= len(self._cache.popitem(last=False)[1])
        return data

    def render_verified(self, rendition: Rendition) -> bytes:
        """Return the very bytes that were verified, for whoever derives something new from them.

        What other libraries draw otherwise is good enough to be looked at. Compared again and again with what was made
        of it, it would drift away from the picture that was written.

        Raises:
            IntegrityError: as `render`, and where the libraries of this machine draw it otherwise.
        """
        data = self.render(rendition)
        if hashlib.sha256(data).digest() != rendition.digest:
            raise IntegrityError(f"a rendition is drawn otherwise than it was verified{_made_with(rendition)}")
        return data

    def source(self, rendition: Rendition) -> RenditionSource:
        """Return the rendition as a source of bytes, made at the first read."""
        return RenditionSource(self, rendition)

    def tell_of_other_libraries(self) -> None:
        """Warn in the log where renditions were made with other versions of the image libraries than are here."""
        text = made_elsewhere(self._contents.some(LOOKED_AT))
        if text is not None:
            log.warning("%s; `dedupfs check --data` tells whether all of them can still be drawn", text)

    def close(self) -> None:
        """Stop the worker."""
        self._pool.close()

    def _make(self, rendition: Rendition) -> bytes:
        representative = self._contents.get(rendition.representative)
        if not isinstance(representative, Exact):
            raise IntegrityError("a representative is not stored exactly")
        original = self._contents.read_all(representative.layout)
        own = self._contents.read_all(rendition.own)
        try:
            data = self._drawn(rendition, original, own)
            if hashlib.sha256(data).digest() == rendition.digest:
                return data
            if self._drawn(rendition, original, own) != data or not self._is_alike(rendition, data):
                raise IntegrityError(f"a rendition is not what was verified{_made_with(rendition)}")
        except IngestError as exc:
            raise IntegrityError(f"a rendition cannot be made: {exc}{_made_with(rendition)}") from exc
        if not self._has_told:
            self._has_told = True
            log.warning(
                "renditions are drawn with other rounding errors than when they were verified%s", _made_with(rendition)
            )
        return data

    def _drawn(self, rendition: Rendition, original: bytes, own: bytes) -> bytes:
        data = self._pool.call("render", original, rendition.recipe, own, rendition.size)
        if not isinstance(data, bytes) or len(data) != rendition.size:
            raise IntegrityError("a worker answered with something that is no rendition")
        return data

    def _is_alike(self, rendition: Rendition, data: bytes) -> bool:
        seen = self._pool.call("look", data)
        return isinstance(seen, bytes) and alike(seen, rendition.sketch)


class RenditionSource:
    """A rendition as bytes that do not change."""

    layout: Layout | None = None

    def __init__(self, renderer: Renderer, rendition: Rendition) -> None:
        self._renderer = renderer
        self._rendition = rendition
        self._data: bytes | None = None
        self._failures = 0
        self._failure = ""
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self._rendition.size

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes. Raises IntegrityError.

        Of a file that is read ahead a dozen requests come at once. If it cannot be drawn, those that have waited for
        that fail along: a worker that hangs would hold up each of them in turn.
        """
        failures = self._failures
        with self._lock:
            if self._data is None:
                if self._failures != failures:
                    raise IntegrityError(self._failure)
                try:
                    self._data = self._renderer.render(self._rendition)
                except IntegrityError as exc:
                    self._failures += 1
                    self._failure = str(exc)
                    raise
        return self._data[offset : offset + size]


@functools.cache
def codecs() -> bytes:
    """Name the libraries that renditions are made with here."""
    versions = [("Pillow", PIL.__version__)]
    versions += [(name, features.version(feature) or "none") for name, feature in _CODECS]
    return ", ".join(f"{name} {version}" for name, version in versions).encode()


_CODECS = (("libjpeg", "libjpeg_turbo"), ("zlib", "zlib_ng"), ("libwebp", "webp"), ("libavif", "avif"))


def made_elsewhere(contents: Iterable[Exact | Rendition]) -> str | None:
    """Say which other versions of the libraries renditions among some contents were made with; None: with none."""
    others = sorted({each.codecs for each in contents if isinstance(each, Rendition)} - {codecs()})
    if not others:
        return None
    listed = " and ".join(each.decode(errors="replace") for each in others)
    return f"renditions were made with {listed}; this is {codecs().decode()}"


def _made_with(rendition: Rendition) -> str:
    if rendition.codecs == codecs():
        return ""
    return f" (it was made with {rendition.codecs.decode(errors='replace')}; this is {codecs().decode()})"
