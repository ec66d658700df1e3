"""JPEGs with arithmetic coding as members: drawn with Huffman coding in scans, which come out almost as short."""

from __future__ import annotations

import base64

import pytest
from PIL import Image

from dedupfs.errors import UnfitPictureError
from dedupfs.ingest import jobs, jpeg
from dedupfs.ingest.decode import decode
from dedupfs.ingest.jobs import Fit, Misfit
from dedupfs.model import Policy
from tests.ingest.drawing import edited, encoded, photo

ORIGINAL = photo(5, (96, 72))
CODE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/yQARCABIAGAD"
    "ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDSIvuMcUmq7b0xazgeDl3n/Eih/wCUj8AwG05v+mUQKux7+JMrjhWifL/KLuDlDyM8"
    "hJdfXF4hd63F56QJg8aLLNlugRN36YBR5gJQYTDobYdTxe9U4RfvNx4U3n++xhGOMAZ1PaV7yf4TSpQiHJj6MExK7IkemKPScVRkO1xhT1beDamV"
    "Nu3HYz761hKCRuRHugzWl5LPCozBnE8DB9lEOVkmwY29FAZ+WDHyY+IbsXyFDeuZp14AeYLwl7MMzs9xMTHZe+EKNW3AhZ0qculS7eqn0LnGwAYn"
    "/LlpnSGkR+nzQ81wMgXMFx1/xh8J2lEz11v46x5bTV+hKF82WIeUj5C2I6+d12P4Uz5K8npnuYGIzaDhG809x8naKvkJBxJBCZVnNS5HJsMmivpD"
    "jMsbZnNvV8aXthuMfuIueTHjr4kJoZB0QZTDq+rEEj56A2675IwJOwXTROV1LABk3TuL+Z1NRIBaO5KuRJ7ZINFLreIL1LnMHc9Ahs0x368/S+2J"
    "PHZnkU6Iru5wQCkhy6IhPwwSHyM8151ryw0VqWFfloDPMEna/Mn+jZhbrcW1aL/j1OyiAQr7tmkBmhggSRskWl4G9PIrVKJLSaBGNpEibIDkkETL"
    "CbqffgfKFAh8gdSfAPMYwoTzcwdTbWd68p4MpQOlLzSjlrjTKL0jwEGWlTpvxq0ilrqs2naA1HwC/ckv6Uw5lHlEUE+QDueRKnmLnqwFkVvE3P3F"
    "ase12yTeexRsNatidhqDrb1uQCbyzqTgakSQWZ4whZRalkZHGLWNiJpA0n/CWOmttvhSZ3eGZn/DFBJyCsZ1Sx22+B/i2haUho28ynJOQRaV+9BW"
    "tbdW4eaxjwf8RGwo0xcXFTF1uIwTVkQ1BsBf9HEdy+IhfNMxDHzop9plMyTwW3JdgY0Sew0BhInEzwW1EVD5OPKrB5kGKvE92zKD5t6xhguvE7dW"
    "bOpoBT6AzQ0fE37dbJMjtcXp0xWpARcz/wBgzSgy44WsrKxiQ4PaQFFuTdS7/wAxZOlFS0RdZioEAno1rMmNkS9i2tzIboAwgnPlQG0h80M+DaBN"
    "Y6eAZDau7S+juQmi0j/jyUO0eWLeWoEqDpcHay27T+NA6F4rpc6Fj46zjt7WMS5Wpfz3NWF8X2E3N9F2J+23SCEW2Fx8SFA5sM4rsg6PMtNg8dwe"
    "ZV/PQIVE1WtH6IeKrfwAcqdJ854FWd0ezlS3C7hmH15Unz5SihcpmwS3wiQGP6aNNI+89Y9RMv/Z"
)
"""By `cjpeg -quality 50 -arithmetic`, which Pillow reads and does not write."""
MEMBER = CODE[:-2] + b"\xff" * 700 + jpeg.EOI
"""As much longer as the tables of Huffman codes take, which of a picture so small are more than the picture."""


def test_a_copy_is_drawn_with_huffman_codes() -> None:
    base = encoded(ORIGINAL, "PNG")
    found = jobs.fit(MEMBER, base, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    rendered = jobs.render(base, found.recipe, found.own, len(MEMBER))
    assert len(rendered) == len(MEMBER)
    assert jpeg.read_frame(rendered).tables == jpeg.read_frame(MEMBER).tables
    assert decode(rendered).image.size == ORIGINAL.size
    assert isinstance(jobs.fit(MEMBER, encoded(edited(ORIGINAL, (1.0, 1.0, 1.0), 9), "PNG"), Policy.VERIFIED), Misfit)


def test_one_too_short_for_huffman_codes_is_kept() -> None:
    assert isinstance(jobs.fit(CODE, encoded(ORIGINAL, "PNG"), Policy.VERIFIED), Misfit)


def test_others_are_drawn_from_it() -> None:
    small = encoded(decode(CODE).image.resize((64, 48), Image.Resampling.LANCZOS), quality=80)
    found = jobs.fit(small, CODE, Policy.VERIFIED)
    assert isinstance(found, Fit), found
    assert jobs.render(CODE, found.recipe, found.own, len(small)) == small


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xCB, 0xCD])
def test_lossless_and_hierarchical_ones_are_not(marker: int) -> None:
    place = CODE.index(b"\xff\xc9")
    with pytest.raises(UnfitPictureError):
        jpeg.read_frame(CODE[: place + 1] + bytes([marker]) + CODE[place + 2 :])
