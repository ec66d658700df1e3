"""A headless Chromium that tests steer over a pipe, by the DevTools protocol; it has a profile of its own.

Nothing else is needed than the browser itself; where there is none, tests are skipped with that reason.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PATIENCE_SECONDS = 30.0
_KEY_CODES = {"Escape": 27, "ArrowDown": 40}
"""What the browser itself goes by, where a key does something without any script."""
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

_AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def why_no_browser() -> str | None:
    """Return why there is no browser to test with, or None."""
    return None if shutil.which("chromium") else "chromium is not installed"


class Browser:
    """One page of a browser."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._number = 0
        self._session: str | None = None
        self._rest = b""
        self.requested: list[str] = []
        """Addresses that the page asked for."""
        self.errors: list[str] = []
        """What went wrong in its scripts, and what its policy forbade."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send one command and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        self._requests.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers.fileno(), 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        return message

    def open(self, path: Path) -> None:
        """Load a file and wait until its script has run."""
        self.ask("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press a key and let go of it."""
        text = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": _KEY_CODES[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def look(self, width_px: int, height_px: int, *, dark: bool = False, phone: bool = False) -> None:
        """Show the page in a window of this size."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, target: Path) -> None:
        """Save what is seen as PNG."""
        target.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser for as long as the block lasts."""
    profile = tempfile.mkdtemp(prefix="dedupfs-browser-")
    their_requests, requests = os.pipe()
    answers, their_answers = os.pipe()
    shim = [sys.executable, "-c", _AS_3_AND_4, str(their_requests), str(their_answers)]
    process = subprocess.Popen(
        [*shim, "chromium", *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(their_requests, their_answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_requests)
    os.close(their_answers)
    # A browser that hangs must not hang the tests: without it the pipe ends and whoever waits fails.
    watchdog = threading.Timer(2 * PATIENCE_SECONDS, process.kill)
    watchdog.start()
    try:
        with os.fdopen(requests, "wb") as writer, os.fdopen(answers, "rb") as reader:
            yield Browser(writer, reader)
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)
