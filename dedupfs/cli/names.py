"""Names of files as people are shown them: whatever is in a name, it stays text and on its line."""

from __future__ import annotations


def printable(path: bytes) -> str:
    """Return a path with everything that is no visible text as an escape.

    That is bytes that are no UTF-8, control characters, which a terminal would obey, and marks of direction, which
    make `gpj.exe` look like `exe.jpg`. Letters of every script stay.
    """
    return visible(path.decode(errors="backslashreplace"))


def visible(text: str) -> str:
    """Return a text with everything that is not visible as an escape, as `printable` does it."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
