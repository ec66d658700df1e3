"""Decides whether LMDB may be let near its pages: only once all of them have been checked.

A small database is checked while it is opened. A larger one goes on being checked on a thread of its own; until that is
through, its tables are read by a Walk, and writers wait. What is found to be damaged stays with the Walk for good.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from dedupfs.errors import IntegrityError, StoreReadOnlyError
from dedupfs.storage.lmdb_check import Damage, TreeCheck
from dedupfs.storage.lmdb_pages import UNWRITTEN_BYTES, Meta, PageError, PageFile
from dedupfs.storage.lmdb_walk import Walk

log = logging.getLogger(__name__)

SECONDS_AT_OPEN = 0.25
"""How long opening may take for the check: some 5,000 pages, enough for a volume of 5,000 pictures."""
ROOTS = "(roots)"
_META_ATTEMPTS = 5
_META_PAUSE_SECONDS = 0.01
_REPORTED = 20
"""How many damaged pages are named in the log; `check` names them all."""


class Guard:
    """What is known of the pages of one file. Any thread may ask; `start` is called once."""

    def __init__(self, pages: PageFile) -> None:
        """Look at the roots of the file. Raises IntegrityError where neither can be used."""
        self._pages = pages
        self._metas, self._root_damage = _read_metas(pages)
        self._walk: Walk | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._done = threading.Event()
        self.clean = False
        """LMDB may have the pages: all have been checked and are sound. It never becomes false again."""
        self.damage: list[Damage] = list(self._root_damage)
        """What has been found so far."""

    @property
    def roots_sound(self) -> bool:
        """Whether LMDB may open the file: it reads nothing but the roots then."""
        return not self._root_damage

    def walk(self, transaction: int | None) -> Walk | None:
        """Return a reader for the commit of this number, or for the best one there is.

        None: the commit's root is no more, for others have come since; there must be a newer one to be had.
        """
        walk = self._walk
        if walk is not None and transaction in (None, walk.meta.transaction):
            return walk
        if transaction is None:
            found = self._metas[0]
        else:
            try:
                found = self._pages.meta(transaction & 1)
            except PageError:
                # Somebody is writing it just now, or it is damaged; after some attempts they can be told apart.
                return None
            if found.transaction != transaction:
                return None
        walk = Walk(self._pages, found)
        self._walk = walk
        return walk

    def start(self, walk: Walk, release: Callable[[], None]) -> None:
        """Check all pages of a commit, as far as there is time for it, and the rest on a thread.

        `release` is called when the check no longer needs the commit to stay as it is.
        """
        check = TreeCheck(self._pages, walk)
        steps = check.steps()
        self._stop.clear()
        deadline = time.monotonic() + SECONDS_AT_OPEN
        try:
            for _ in steps:
                if time.monotonic() > deadline:
                    break
            else:
                self._finish(check)
        except BaseException:
            release()
            raise
        if self._done.is_set():
            release()
            return
        self._thread = threading.Thread(
            target=self._go_on, args=(check, steps, release), name="page check", daemon=True
        )
        self._thread.start()

    def find_damage(self, walk: Walk) -> list[Damage]:
        """Check all pages of a commit, however long it takes, and return what is damaged."""
        check = TreeCheck(self._pages, walk)
        for _ in check.steps():
            pass
        return [*self._root_damage, *check.damage]

    def wait(self) -> bool:
        """Wait for the verdict and return whether LMDB may have the pages."""
        if not self._done.is_set():
            log.info("what needs all pages waits until they have been checked")
            self._done.wait()
        return self.clean

    def wait_until_clean(self) -> None:
        """Return when LMDB may have the pages. Raises StoreReadOnlyError where it may not."""
        if not self.wait():
            raise StoreReadOnlyError("the database is damaged, so nothing is written to it; see `dedupfs check`")

    def interrupt(self) -> bool:
        """End a check that is going on without a verdict, and return whether there was one; `start` begins anew."""
        if self._done.is_set() or self._thread is None:
            return False
        self._stop.set()
        self._thread.join()
        return not self._done.is_set()

    def stop(self) -> None:
        """End the check for good; without a verdict LMDB gets no pages."""
        self.interrupt()
        self._done.set()

    def _go_on(self, check: TreeCheck, steps: Iterator[None], release: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            for _ in steps:
                if self._stop.is_set():
                    return
            log.info("%d pages have been checked in %.1f s", check.pages_checked, time.monotonic() - started)
            self._finish(check)
        except Exception:
            log.exception("the pages of the database could not be checked; nothing is written to it")
            self._done.set()
        finally:
            release()

    def _finish(self, check: TreeCheck) -> None:
        self.damage = [*self._root_damage, *check.damage]
        for found in self.damage[:_REPORTED]:
            log.error("page %d of the database (%s) %s", found.page, found.table, found.reason)
        if self.damage:
            log.error("the database is damaged in %d places: it can be read and not written", len(self.damage))
        else:
            self.clean = True
            # LMDB does it from here on.
            self._walk = None
        self._done.set()


def _read_metas(pages: PageFile) -> tuple[list[Meta], list[Damage]]:
    """Return the roots that can be used, the best first, and what is wrong with them.

    Another process may be writing one, so what looks wrong is looked at again.
    """
    for attempt in range(_META_ATTEMPTS):
        metas, damage = _metas_now(pages)
        if not damage:
            break
        if attempt + 1 < _META_ATTEMPTS:
            time.sleep(_META_PAUSE_SECONDS)
    if not metas:
        raise IntegrityError("the database is damaged: the root of its last commit cannot be used")
    return metas, damage


def _metas_now(pages: PageFile) -> tuple[list[Meta], list[Damage]]:
    metas: list[Meta] = []
    damage: list[Damage] = []
    for number in (0, 1):
        try:
            metas.append(pages.meta(number))
        except PageError as exc:
            damage.append(Damage(exc.page, ROOTS, exc.reason))
    if len(metas) == 1:
        metas = _of_one(pages, metas[0], damage[0].page)
    elif metas:
        metas.sort(key=lambda meta: -meta.transaction)
        newer, older = metas
        freed = _last_freed(pages, newer), _last_freed(pages, older)
        in_turn = newer.transaction - older.transaction == (1 if newer.transaction else 0)
        if not in_turn or (freed[0] != newer.transaction and (freed[0] > newer.transaction or 0 < freed[0] < freed[1])):
            damage.append(Damage(newer.transaction & 1, ROOTS, "or its twin has the number of another commit"))
            metas = _of_two(newer, older, freed)
    if metas and metas[0].end_page * pages.page_bytes > pages.size_bytes() + UNWRITTEN_BYTES:
        damage.append(Damage(metas[0].end_page - 1, ROOTS, "is behind the end of the file, which was cut off"))
    return metas, damage


def _of_two(newer: Meta, older: Meta, freed: tuple[int, int]) -> list[Meta]:
    """Return the root of the last commit, of two whose numbers cannot both be true; nothing where it is not certain.

    The number of a commit that equals the last that freed pages is true, and the other one is a step before or behind.
    """
    true = [last == meta.transaction for meta, last in zip((newer, older), freed, strict=True)]
    if true == [True, False]:
        known, other, others_last = newer, older, freed[1]
    elif true == [False, True]:
        known, other, others_last = older, newer, freed[0]
    else:
        return []
    if others_last == known.transaction + 1:
        return [replace(other, transaction=others_last)]
    return [known] if known.transaction - 1 in (others_last, other.transaction) else []


def _of_one(pages: PageFile, kept: Meta, damaged: int) -> list[Meta]:
    """Return the root of the last commit where only one of the two is sound; nothing if that was the other one.

    The sound one may be that of the commit before, and a volume must not go back in time without a word. The damaged
    one is seldom damaged all over, and what it still says is believed once the tables are where it says.
    """
    guess = pages.guessed_meta(damaged)
    numbers = {pages.guessed_transaction(damaged)}
    if guess is not None:
        numbers.add(_last_freed(pages, guess))
    if kept.transaction + 1 not in numbers:
        return [kept] if kept.transaction - 1 in numbers else []
    try:
        if guess is None:
            return []
        Walk(pages, guess).tables()
    except IntegrityError:
        return []
    return [replace(guess, transaction=kept.transaction + 1)]


def _last_freed(pages: PageFile, meta: Meta) -> int:
    """Return the last commit that freed pages, as a root knows it, and 0 where that cannot be found out.

    LMDB files the pages that a commit frees under the commit's number, and nearly every commit frees some.
    """
    try:
        return Walk(pages, meta).last_freed()
    except IntegrityError:
        return 0
