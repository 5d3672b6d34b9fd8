"""Turns of tenants: none of them holds up the others."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from situate.errors import SituateError

T = TypeVar("T")


class BusyError(SituateError):
    """More is under way than the application takes on."""


class TurnQueue(Generic[T]):
    """A queue that gives each tenant a turn, in the order in which their first waiting item came.

    Args:
        most: Items of one tenant that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._filled = asyncio.Event()

    def check(self, tenant: str) -> None:
        """Refuse a further item where there are too many.

        Raises:
            BusyError: As many items of the tenant wait as may.
        """
        if len(self._waiting.get(tenant, ())) >= self._most:
            raise BusyError(f"{self._most} files wait to be read: try again in a while")

    def put(self, tenant: str, item: T) -> None:
        """Let an item wait behind the tenant's others."""
        self._waiting.setdefault(tenant, deque()).append(item)
        self._filled.set()

    async def get(self) -> T:
        """The next item, when there is one."""
        await self._filled.wait()
        tenant, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[tenant] = items
        if not self._waiting:
            self._filled.clear()
        return item


class Slots:
    """A number of things that may be under way at once.

    Args:
        most: For all tenants.
        of_one: For one tenant.
        what: What is counted, for the message.
    """

    def __init__(self, most: int, of_one: int, what: str) -> None:
        self._most = most
        self._of_one = of_one
        self._what = what
        self._taken: Counter[str] = Counter()

    def check(self, tenant: str) -> None:
        """Refuse one more.

        Raises:
            BusyError: As many are under way as may.
        """
        if self._taken[tenant] >= self._of_one or self._taken.total() >= self._most:
            raise BusyError(f"as many {self._what} are under way as may be: try again in a moment")

    @contextmanager
    def taken(self, tenant: str) -> Iterator[None]:
        """One of them is under way while the block runs.

        Raises:
            BusyError: As many are under way as may.
        """
        self.check(tenant)
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
