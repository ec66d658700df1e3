"""The page by itself: what is in it stays text, and it asks for nothing. Then in a real browser, where there is one."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import json
import random
import re
import string
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dedupfs.cli.names import printable
from dedupfs.cli.page import thumbnails
from dedupfs.cli.page.build import Head, figures_of, page
from dedupfs.errors import SourceError
from dedupfs.ingest.groups import CopyKind, Group, Kept, Look, Measured, Version, by_savings
from dedupfs.ingest.jobs import draw_thumbnail
from dedupfs.ingest.workers import WorkerPool
from dedupfs.model import ContentId, Differences, PictureFormat
from tests.browser import Browser, browser, why_no_browser
from tests.cli.names import HOSTILE, SCRIPT_END
from tests.conftest import examples
from tests.ingest.drawing import encoded, photo

LOOK = Look(PictureFormat.JPEG, 4000, 3000)


class OnePicture(WorkerPool):
    """Draws the same thumbnail of everything."""

    def __init__(self) -> None:
        super().__init__(1)
        self._drawn = draw_thumbnail(encoded(photo(1), quality=80), 64)

    def call(self, job: str, *arguments: Any) -> Any:
        assert job == "thumbnail"
        return self._drawn


def content(number: int) -> ContentId:
    return ContentId(number.to_bytes(32, "big"))


def some_groups(count: int) -> list[Group]:
    """Return groups of a kept file and one to three copies of every kind."""
    chance = random.Random(count)
    groups = []
    for at in range(count):
        kept = Kept(b"holiday/%d/IMG_%05d.jpg" % (at % 40, at), content(4 * at), 4_000_000, LOOK)
        versions = []
        for number in range(1, chance.randrange(2, 5)):
            kind = chance.choice(list(CopyKind))
            drawn = kind not in (CopyKind.EXACT, CopyKind.METADATA)
            differences = Differences(10 * chance.random(), 8 * chance.random(), 1.0, 1.0, 0.0)
            measured = Measured(differences, chance.randrange(9), chance.random() < 0.3) if drawn else None
            path = b"backup/copy of IMG_%05d-%d.jpg" % (at, number)
            size = chance.randrange(20_000, 20_000_000)
            versions.append(Version(path, content(4 * at + number), size, LOOK, kind, 300, measured))
        groups.append(Group(kept, versions))
    return by_savings(groups)


def written(groups: list[Group], subject: str = "photos", read: Any = lambda content: b"") -> str:
    saved = sum(group.saved_bytes for group in groups)
    head = Head("What dedupfs would save", subject, figures_of(9, 2 * saved, saved, len(groups)), saved)
    return "".join(page(head, groups, read, OnePicture(), lambda done, total: None))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of the scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            name = self.elements[-1][1].get("id") or self._inside
            self.scripts[name] = self.scripts.get(name, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None


def one_group(path: bytes) -> list[Group]:
    kept = Kept(path, content(1), 1000, LOOK)
    return [Group(kept, [Version(path, content(2), 900, LOOK, CopyKind.RESIZED, 100, None)])]


@functools.cache
def harmless() -> Elements:
    return Elements(written(one_group(b"x"), "x"))


@given(st.one_of(st.binary(max_size=40), st.sampled_from([HOSTILE, SCRIPT_END, b"<!--<script>", b"]]>&quot;"])))
@settings(max_examples=examples(25))
def test_no_name_becomes_markup(path: bytes) -> None:
    plain = harmless()
    text = written(one_group(path), printable(path))
    assert text.isascii()
    assert set(text) <= set(string.printable)
    hostile = Elements(text)
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.elements] == [
        (tag, sorted(attributes)) for tag, attributes in plain.elements
    ]
    (group,) = json.loads(hostile.scripts["data"])["groups"]
    assert group["kept"]["path"] == group["versions"][0]["path"] == printable(path)
    assert html.escape(printable(path)).encode("ascii", "xmlcharrefreplace").decode() in text


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone() -> None:
    found = Elements(written(some_groups(3)))
    addresses = [
        (tag, name, value)
        for tag, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "style") or name.startswith("on")
    ]
    assert addresses == [("a", "href", "#groups")]
    policy = next(
        value["content"] or ""
        for tag, value in found.elements
        if tag == "meta" and value.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.scripts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert not re.search(
        r"https?:|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", found.scripts["script"]
    )


def test_equal_pictures_are_drawn_once_and_failures_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "PER_BLOCK", 2)
    groups = some_groups(2)
    asked: list[ContentId] = []

    def read(number: ContentId) -> bytes:
        asked.append(number)
        if number == content(4):
            raise SourceError("gone")
        return b""

    found = Elements(written([*groups, *groups], read=read))
    assert len(asked) == len(set(asked)) == len(thumbnails.wanted(groups))
    data = json.loads(found.scripts["data"])
    blocks = [json.loads(found.scripts[f"thumbnails-{at}"]) for at in range(-(-len(asked) // 2))]
    at = next(group["kept"]["thumbnail"] for group in data["groups"] if "IMG_00001" in group["kept"]["path"])
    drawn = [one for block in blocks for one in block]
    assert drawn[at] == ""
    assert drawn.count("") == 1
    assert base64.b64decode(drawn[at - 1])[8:12] == b"WEBP"


@pytest.mark.parametrize("answer", ["</script>", None, bytes(2 << 20)])
def test_a_worker_is_not_believed(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnePicture, "call", lambda *_: answer)
    found = Elements(written(one_group(b"x")))
    assert json.loads(found.scripts["thumbnails-0"]) == ["", ""]


def test_a_thumbnail_is_upright_small_and_bare() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where I live"
    data = encoded(photo(2), exif=exif, comment=b"where I live", icc_profile=b"where I live")
    drawn = draw_thumbnail(data, 100)
    image = Image.open(io.BytesIO(drawn))
    assert image.size == (75, 100)
    assert b"live" not in drawn
    assert not {"exif", "icc_profile", "xmp"} & image.info.keys()


# In a browser


needs_browser = pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or "")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def opened(chromium: Browser, tmp_path: Path, groups: list[Group]) -> Browser:
    """Open a page of the groups in a window of its own size."""
    target = tmp_path / "page.html"
    target.write_text(written(groups), encoding="ascii")
    chromium.requested.clear()
    chromium.errors.clear()
    chromium.look(1280, 900)
    chromium.open(target)
    chromium.wait("document.querySelector('.group, .none') !== null")
    return chromium


def count_of(chromium: Browser) -> str:
    found = chromium.value("document.getElementById('count').textContent")
    assert isinstance(found, str)
    return found


@needs_browser
def test_names_are_shown_as_text_and_nothing_is_fetched(chromium: Browser, tmp_path: Path) -> None:
    for path in (HOSTILE, SCRIPT_END):
        found = opened(chromium, tmp_path, one_group(path))
        shown = found.value("[...document.querySelectorAll('bdi')].map((each) => each.textContent)")
        assert shown == [printable(path)] * 3
        assert found.value("document.title") == "What dedupfs would save"
        assert found.value("document.querySelectorAll('#groups img').length") == 2
        found.wait("[...document.images].every((image) => image.complete && image.naturalWidth === 64)")
        assert [address for address in found.requested if not address.startswith(("file:", "data:"))] == []
        assert found.errors == []


@needs_browser
def test_a_hand_on_the_keyboard_is_enough(chromium: Browser, tmp_path: Path) -> None:
    found = opened(chromium, tmp_path, some_groups(120))
    selected = "document.activeElement.dataset.at"
    for keys, at in (("j", "0"), ("jj", "2"), ("k", "1")):
        for key in keys:
            found.press(key)
        assert found.value(selected) == at
    found.press("ArrowDown")
    assert found.value(selected) == "2"
    for _ in range(60):
        found.press("j")
    assert found.value(selected) == "62"
    assert found.value(
        "document.activeElement.getBoundingClientRect().top >= document.querySelector('.filters').clientHeight"
    )
    found.press("/")
    for key in "IMG_00077":
        found.press(key)
    found.wait("document.getElementById('count').textContent.startsWith('1 of 120')")
    found.press("Escape")
    assert found.value("document.activeElement === document.body")
    found.press("?")
    assert found.value("document.getElementById('help').open")
    found.press("j")
    assert found.value("document.activeElement.closest('#help') !== null")
    found.press("Escape")
    found.wait("!document.getElementById('help').open")
    found.press("x")
    assert count_of(found).startswith("120 of 120")


@needs_browser
def test_filters_and_orders(chromium: Browser, tmp_path: Path) -> None:
    groups = some_groups(60)
    found = opened(chromium, tmp_path, groups)

    def choose(name: str, value: str) -> None:
        found.value(
            f"(() => {{ const it = document.getElementById('{name}'); it.value = '{value}';"
            " it.dispatchEvent(new Event('change')); })()"
        )

    def matching(wanted: Any) -> str:
        return f"{sum(any(map(wanted, group.versions)) for group in groups)} of 60 groups"

    choose("exactness", "alike")
    assert count_of(found).startswith(matching(lambda version: not version.bit_exact))
    choose("exactness", "exact")
    assert count_of(found).startswith(matching(lambda version: version.bit_exact))
    choose("exactness", "")
    found.value("document.querySelector('#kinds input[value=resized]').click()")
    assert count_of(found).startswith(matching(lambda version: version.kind is not CopyKind.RESIZED))
    found.value("document.getElementById('reset').click()")
    choose("least", "10000000")
    assert count_of(found).startswith(f"{sum(group.saved_bytes >= 10_000_000 for group in groups)} of 60")
    choose("least", "0")
    choose("order", "path")
    assert found.value("document.querySelector('.group h2 bdi').textContent") == min(
        printable(group.kept.path or b"") for group in groups
    )
    choose("order", "difference")
    worst = max(
        version.measured.differences.fine_luma for group in groups for version in group.versions if version.measured
    )
    assert f"{worst:.1f}" in found.value("document.querySelector('.group').textContent")


@needs_browser
def test_five_thousand_groups_are_quick(chromium: Browser, tmp_path: Path) -> None:
    found = opened(chromium, tmp_path, some_groups(5000))
    assert count_of(found).startswith("5,000 of 5,000")
    assert found.value("document.querySelectorAll('.group').length") < 200, "drawn only as far as somebody looks"
    slowest_ms = found.value(
        "(() => { const search = document.getElementById('order'); let slowest = 0;"
        " for (const value of ['difference', 'path', 'saved']) { const start = performance.now();"
        " search.value = value; search.dispatchEvent(new Event('change'));"
        " slowest = Math.max(slowest, performance.now() - start); } return slowest; })()"
    )
    assert slowest_ms < 2000, "about 30 ms on an idle machine"
    assert found.errors == []


@needs_browser
def test_where_nothing_is_a_copy_there_is_nothing_to_filter(chromium: Browser, tmp_path: Path) -> None:
    found = opened(chromium, tmp_path, [])
    assert found.value("document.getElementById('groups').innerText") == "No file is a copy of another one."
    assert not found.value("document.querySelector('.filters').checkVisibility()")


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_and_the_dark(chromium: Browser, tmp_path: Path, dark: bool) -> None:
    found = opened(chromium, tmp_path, [*one_group(b"a" * 200 + b"/" + b"b" * 250), *some_groups(5)])
    found.look(360, 740, dark=dark, phone=True)
    assert found.value("document.documentElement.scrollWidth") <= 360
    # No figure of the chart is torn from its unit.
    heights = found.value("[...document.querySelectorAll('.chart tbody tr')].map((row) => row.offsetHeight)")
    assert max(heights) - min(heights) <= 1
    # The contrast of text as WCAG 2 counts it, for everything that has text of its own.
    worst = found.value(
        """(() => {
          const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
          const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const ground = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const rgb = parse(getComputedStyle(at).backgroundColor);
              if (rgb.length < 4 || rgb[3] > 0) return rgb;
            }
            return [255, 255, 255];
          };
          let worst = 21;
          for (const element of document.body.querySelectorAll("*")) {
            if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
            if (!element.checkVisibility() || element.matches("script, style, .skip")) continue;
            const pair = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
            worst = Math.min(worst, (pair[0] + 0.05) / (pair[1] + 0.05));
          }
          return worst;
        })()"""
    )
    assert worst >= 4.5
    colour = found.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", colour))) < 64) is dark
