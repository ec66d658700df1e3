"""A recovery key survives being copied by hand: its text is forgiving in form and strict in substance."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.crypto import recovery

SECRET = bytes(range(32))
TEXT = recovery.encode(SECRET)

secrets = st.binary(min_size=32, max_size=32)
places = st.integers(0, 63)


def characters(text: str) -> list[str]:
    return list(text.replace("-", ""))


def test_its_text_is_what_people_have_on_paper() -> None:
    assert TEXT == "000G-40R4-0M30-E8K5-104G-M2RC-1M70-YR3G-208H-44RM-2MB1-ESG1-30CH-M6RW-3MF1-ZV8M"
    assert recovery.decode(TEXT.encode()) == SECRET


def test_new_ones_differ() -> None:
    assert len({recovery.new_secret() for _ in range(100)}) == 100
    assert len(recovery.new_secret()) == 32


@given(secrets)
def test_round_trip(secret: bytes) -> None:
    text = recovery.encode(secret)
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){15}[0-9A-HJKMNP-TV-Z]{4}", text)
    assert recovery.decode(text.encode()) == secret
    assert recovery.complaint(text.encode()) is None


@given(
    secrets,
    st.lists(
        st.sampled_from(["", "-", " ", "\n", "\r\n", "\t", " - ", "_", ".", "\N{EN DASH}"]), min_size=65, max_size=65
    ),
    st.lists(st.booleans(), min_size=64, max_size=64),
)
def test_case_and_separators_make_no_difference(secret: bytes, separators: list[str], lower: list[bool]) -> None:
    parts = [
        before + (character.lower() if small else character)
        for before, character, small in zip(separators, characters(recovery.encode(secret)), lower, strict=False)
    ]
    assert recovery.decode(("".join(parts) + separators[-1]).encode()) == secret


@pytest.mark.parametrize(("read", "meant"), [("O", "0"), ("o", "0"), ("I", "1"), ("i", "1"), ("L", "1"), ("l", "1")])
def test_letters_that_look_like_digits_are_taken_for_them(read: str, meant: str) -> None:
    assert recovery.decode(TEXT.replace(meant, read).encode()) == SECRET


@given(places, st.sampled_from(recovery.ALPHABET + "U*"))
def test_a_wrong_character_is_told_with_its_place(at: int, wrong: str) -> None:
    typed = characters(TEXT)
    if typed[at] == wrong:
        return
    typed[at] = wrong
    first = at // 16 * 4 + 1
    assert recovery.decode("".join(typed).encode()) is None
    assert recovery.complaint("".join(typed).encode()) == f"there is a typing error in groups {first} to {first + 3}"


@given(st.integers(0, 62))
def test_two_characters_in_each_others_place_are_told(at: int) -> None:
    typed = characters(TEXT)
    typed[at], typed[at + 1] = typed[at + 1], typed[at]
    if typed == characters(TEXT):
        return
    assert recovery.decode("".join(typed).encode()) is None
    assert "typing error" in (recovery.complaint("".join(typed).encode()) or "")


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (0, 3)])
def test_lines_in_each_others_place_are_told(one: int, other: int) -> None:
    blocks = ["".join(characters(TEXT)[at : at + 16]) for at in range(0, 64, 16)]
    blocks[one], blocks[other] = blocks[other], blocks[one]
    assert recovery.decode(" ".join(blocks).encode()) is None
    assert " and " in (recovery.complaint(" ".join(blocks).encode()) or "")


@given(places)
def test_a_missing_or_additional_character_is_told(at: int) -> None:
    typed = characters(TEXT)
    for wrong in (typed[:at] + typed[at + 1 :], [*typed[:at], "A", *typed[at:]]):
        assert recovery.decode("".join(wrong).encode()) is None
        assert recovery.complaint("".join(wrong).encode()) == f"it has {len(wrong)} characters instead of 64"


@pytest.mark.parametrize(
    "text",
    [b"", b"correct horse battery staple", b"\xff" * 64, "\N{SNOWFLAKE}".encode() * 64, b"0" * 200, b"u" * 64],
)
def test_a_passphrase_is_no_mistyped_recovery_key(text: bytes) -> None:
    assert recovery.decode(text) is None
    assert recovery.complaint(text) is None


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
def test_any_text_is_judged(text: bytes) -> None:
    assert recovery.decode(text) is None
    recovery.complaint(text)
