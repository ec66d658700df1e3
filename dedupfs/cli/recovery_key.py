"""How a recovery key is shown: the key alone on standard output, and what to do with it beside it, for a person."""

from __future__ import annotations

import sys

_ADVICE = """\
This is its recovery key, shown this once. It opens the volume in place of a passphrase, also when volume.json is lost.
Print it or write it down, and keep it apart from the volume:"""


def introduce(news: str) -> None:
    """Say what the text that follows on standard output is, when somebody is there to read it."""
    if sys.stderr.isatty():
        print(f"{news}\n{_ADVICE}", file=sys.stderr, flush=True)
