"""Copy a picture as a web page does before it is sent: drawn on a canvas by a browser without a window.

The page carries the picture within itself, since a canvas with a picture from elsewhere cannot be read.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

TIMEOUT_SECONDS = 120

_TYPES = {".jpg": "image/jpeg", ".webp": "image/webp", ".png": "image/png"}

_PAGE = """<html><body><pre id="made"></pre><script>
const picture = new Image();
picture.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(picture.width * SHARE), Math.round(picture.height * SHARE)];
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    document.getElementById("made").textContent = canvas.toDataURL("WANTED", QUALITY);
};
picture.src = "SOURCE";
</script></body></html>
"""


def draw(source: Path, target: Path, share: float, quality: float) -> None:
    """Draw a picture at a share of its size and store it.

    Args:
        quality: 0 to 1, as toDataURL() takes it.
    Raises:
        OSError, subprocess.SubprocessError: the browser did not do it.
    """
    with Image.open(source) as picture:
        kind = Image.MIME.get(picture.format or "", "image/jpeg")
    url = f"data:{kind};base64,{base64.b64encode(source.read_bytes()).decode()}"
    wanted = (("SHARE", f"{share:g}"), ("QUALITY", f"{quality:g}"), ("WANTED", _TYPES[target.suffix]), ("SOURCE", url))
    text = _PAGE
    for name, value in wanted:
        text = text.replace(name, value)
    with tempfile.TemporaryDirectory(prefix="dedupfs-canvas-") as folder:
        page = Path(folder) / "page.html"
        page.write_text(text)
        words = ["chromium", "--headless", "--disable-gpu", "--no-sandbox", f"--user-data-dir={folder}/profile"]
        words += ["--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
        said = subprocess.run(
            words, check=True, capture_output=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        ).stdout
    found = re.search(rb'<pre id="made">data:[a-z/]+;base64,([A-Za-z0-9+/=]+)</pre>', said)
    if found is None:
        raise OSError("the browser drew nothing")
    target.write_bytes(base64.b64decode(found[1]))


def installed() -> bool:
    return shutil.which("chromium") is not None
