"""Names of files that are out to harm whoever shows them."""

from __future__ import annotations

HOSTILE = b"\xff\x1b[31m<img src=x onerror=alert(1)>\xe2\x80\xaegpj.jpg"
SCRIPT_END = b"</script><script>document.title=1<!--@@data@@ &lt;\xe2\x80\xa8'\"`${x}\\.png"
