"""Live views of Plutino for asyncio, on the package ``websockets`` (13 or newer).

    async with PlutinoLive("ws://localhost:10081/live") as live:
        fleet = live.subscribe("fleet", params={"site": "n1"})
        async for change in fleet:
            print(len(fleet.rows), change.insert, change.update, change.delete)

``fleet.rows`` is a dict from a row's key (as JSON text) to the row. It always holds one consistent cut of the view: a delta is
applied as a whole, and after a cut connection the old rows stay until the new ones are complete. The client reconnects
with backoff and resumes where it stopped.

The protocol is ``plutino.live.v1``, described in docs/live-views.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

__all__ = ["Change", "LiveError", "PlutinoLive", "Subscription"]

SUBPROTOCOL = "plutino.live.v1"
# Waits between dials, in seconds. Each is shortened at random by up to a half, so that many clients do not dial at once.
FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
# Assumed until the server's hello names its heartbeat, in seconds.
DEFAULT_HEARTBEAT = 15.0

Row = dict[str, Any]
Key = str
Token = str | Callable[[], str | Awaitable[str]]


class LiveError(Exception):
    """The server refused a subscription, or ended it for good."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


@dataclass
class Change:
    """What happened to the rows of a subscription."""

    insert: list[Row] = field(default_factory=list)
    update: list[Row] = field(default_factory=list)
    #: dicts of the key columns
    delete: list[Row] = field(default_factory=list)
    #: whether all rows were replaced
    snapshot: bool = False
    #: the view's time, ms since the epoch
    ts: int = 0


class Subscription:
    """A view, or a part of one, kept up to date. Iterating yields a :class:`Change` after each cut.

    A consumer that is slower than the view gets several changes folded into none: ``rows`` is always the newest cut, and
    only the last ``backlog`` changes are kept.
    """

    def __init__(self, live: PlutinoLive, view: str, params: dict[str, Any], every: int, backlog: int) -> None:
        self.view, self.params, self.every = view, params, every
        #: the rows by key, in the view's order if it has one
        self.rows: dict[Key, Row] = {}
        self.key: list[str] = []
        self.columns: list[dict[str, str]] = []
        self.order: list[list[str]] = []
        #: whether ``rows`` holds a complete cut
        self.ready = False
        self._live = live
        self._id = ""
        self._number: int | None = None
        self._cursor: str | None = None
        self._next: dict[Key, Row] | None = None
        self._replacing = False
        self._partial = False
        self._pending: Change | None = None
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self._backlog = backlog
        self._failure: LiveError | None = None
        self._ended = False

    def key_of(self, row: Row) -> Key:
        """The key under which a row stands in ``rows``: a JSON list, in which 1, true and "1" differ as in the view."""
        return json.dumps([row.get(column) for column in self.key], separators=(",", ":"), ensure_ascii=False)

    def close(self) -> None:
        """Ends the subscription."""
        self._live._end(self)
        self._end(None)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Change:
        change = None if self._ended and self._changes.empty() else await self._changes.get()
        if change is None:
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        return change

    def _end(self, failure: LiveError | None) -> None:
        if not self._ended:
            self._ended, self._failure, self.ready = True, failure, False
            self._changes.put_nowait(None)

    def _cut(self) -> None:
        """The connection is gone. The rows stay until the next cut is complete."""
        self._number = self._next = self._pending = None
        if self._partial:
            self._partial, self._cursor = False, None

    def _subscribed(self, message: dict[str, Any]) -> None:
        self._number = message["s"]
        self.key = message["key"]
        self.columns = message.get("columns", [])
        self.order = message.get("order", [])
        if not message.get("resumed"):
            self._cursor = None

    def _snapshot(self) -> None:
        self._next, self._replacing, self._partial, self._pending = {}, True, False, None

    def _rows(self, rows: list[Row]) -> None:
        if self._next is not None:
            self._next.update((self.key_of(row), row) for row in rows)

    def _ready(self, message: dict[str, Any]) -> None:
        if message.get("more"):
            # The rows so far are of several cuts. They are shown when the deltas that follow have completed one.
            self._partial = True
            return
        self._cursor = message["at"]
        self._swap(message.get("ts", 0))

    def _swap(self, ts: int) -> None:
        self.rows = self._next if self._next is not None else {}
        self._next, self._partial, self._pending, self.ready = None, False, None, True
        self._sort()
        self._report(Change(insert=list(self.rows.values()), snapshot=True, ts=ts))

    def _delta(self, message: dict[str, Any]) -> bool:
        """Applies a delta. False if it does not fit, so that a snapshot is needed."""
        more = bool(message.get("more"))
        if not (more or self._partial or self._follows(message)):
            return False
        if more and self._next is None:
            self._next, self._replacing = dict(self.rows), False
        target = self._next if self._next is not None else self.rows
        insert, update, delete = (message.get(name, []) for name in ("insert", "update", "delete"))
        for row in (*insert, *update):
            target[self.key_of(row)] = row
        for row in delete:
            target.pop(self.key_of(row), None)
        pending = self._pending = self._pending or Change()
        pending.insert += insert
        pending.update += update
        pending.delete += delete
        pending.ts = message.get("ts", pending.ts)
        if more:
            self._partial = True
            return True
        self._cursor = message["at"]
        if self._next is not None and self._replacing:
            self._swap(pending.ts)
            return True
        self.rows, self._next, self._partial, self._pending = target, None, False, None
        self._sort()
        self._report(pending)
        return True

    def _follows(self, message: dict[str, Any]) -> bool:
        """Whether a delta continues the cut that this client holds."""
        if self._cursor is None:
            return False
        (epoch, own), (before, previous), (after, at) = map(_parse, (self._cursor, message["prev"], message["at"]))
        return epoch == before == after and previous <= own < at

    def _progress(self, at: str) -> None:
        if not self._partial and self._next is None and self._cursor is not None:
            self._cursor = at

    def _report(self, change: Change) -> None:
        if self._changes.qsize() >= self._backlog:
            self._changes.get_nowait()
        self._changes.put_nowait(change)

    def _sort(self) -> None:
        # A dict keeps the order in which keys were added.
        if self.order:
            self.rows = dict(sorted(self.rows.items(), key=functools.cmp_to_key(self._compare)))

    def _compare(self, a: tuple[Key, Row], b: tuple[Key, Row]) -> int:
        for column, direction in self.order:
            left, right = a[1].get(column), b[1].get(column)
            order = _compare(left, right)
            # Nulls are last in both directions.
            if order and direction == "desc" and left is not None and right is not None:
                order = -order
            if order:
                return order
        orders = (_compare(a[1].get(column), b[1].get(column)) for column in self.key)
        return next((order for order in orders if order), 0)


class PlutinoLive:
    """One connection to a server, with any number of subscriptions.

    ``url`` is the endpoint for subscriptions by message, such as ``ws://localhost:10081/live``. ``token`` is an access
    token, or a function that returns one and is called at each dial. Further arguments go to ``websockets.connect``.
    """

    def __init__(self, url: str, *, token: Token | None = None, **options: Any) -> None:
        self._url, self._token, self._options = url, token, options
        self._by_id: dict[str, Subscription] = {}
        self._by_number: dict[int, Subscription] = {}
        self._next_id = 1
        self._outbox: asyncio.Queue[dict[str, Any]] | None = None
        self._task: asyncio.Task[None] | None = None
        #: why the last connection ended, while there is none
        self.last_error: Exception | None = None

    async def __aenter__(self) -> PlutinoLive:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for subscription in list(self._by_id.values()):
            subscription._end(None)
        self._by_id.clear()

    def subscribe(
        self, view: str, *, params: dict[str, Any] | None = None, every: int = 0, backlog: int = 1000
    ) -> Subscription:
        """Subscribes to a view, or to the part that ``params`` selects (a value, or a list of values, for each).

        ``every``: at most one delta in so many ms. ``backlog``: how many changes wait for the consumer at most.
        """
        subscription = Subscription(self, view, params or {}, every, backlog)
        subscription._id = str(self._next_id)
        self._next_id += 1
        self._by_id[subscription._id] = subscription
        self._ask(subscription)
        return subscription

    def _end(self, subscription: Subscription) -> None:
        self._by_id.pop(subscription._id, None)
        if subscription._number is not None:
            self._by_number.pop(subscription._number, None)
            self._send({"t": "unsubscribe", "s": subscription._number})

    def _send(self, message: dict[str, Any]) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    def _ask(self, subscription: Subscription) -> None:
        message: dict[str, Any] = {"t": "subscribe", "id": subscription._id, "view": subscription.view}
        if subscription.params:
            message["params"] = subscription.params
        if subscription.every:
            message["every"] = subscription.every
        if subscription._cursor is not None:
            message["cursor"] = subscription._cursor
        self._send(message)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            greeted = False
            try:
                async with connect(
                    await self._address(), subprotocols=[SUBPROTOCOL], max_size=None, **self._options
                ) as socket:
                    greeted = await self._serve(socket)
            except (OSError, WebSocketException, asyncio.TimeoutError, ValueError, KeyError) as error:
                self.last_error = error
            finally:
                self._outbox = None
                self._by_number.clear()
                for subscription in self._by_id.values():
                    subscription._cut()
            if greeted:
                wait = FIRST_WAIT
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(wait * 2, LONGEST_WAIT)

    async def _address(self) -> str:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if not token:
            return self._url
        return f"{self._url}{'&' if '?' in self._url else '?'}_token={quote(token, safe='')}"

    async def _serve(self, socket: Any) -> bool:
        """Reads until the connection ends. Returns whether the server has greeted."""
        heartbeat, greeted, sender = DEFAULT_HEARTBEAT, False, None
        try:
            while True:
                # A server that is silent for two heartbeats has gone, whatever TCP says.
                message = json.loads(await asyncio.wait_for(socket.recv(), 2 * heartbeat + 1))
                if message["t"] == "hello":
                    heartbeat = message.get("heartbeat", DEFAULT_HEARTBEAT * 1000) / 1000
                    greeted, self.last_error = True, None
                    outbox = self._outbox = asyncio.Queue()
                    sender = asyncio.create_task(self._forward(socket, outbox))
                    for subscription in self._by_id.values():
                        self._ask(subscription)
                elif not self._receive(message):
                    return greeted
        except (OSError, WebSocketException, asyncio.TimeoutError) as error:
            self.last_error = error
            return greeted
        finally:
            if sender is not None:
                sender.cancel()

    @staticmethod
    async def _forward(socket: Any, outbox: asyncio.Queue[dict[str, Any]]) -> None:
        with contextlib.suppress(WebSocketException, OSError):
            while True:
                await socket.send(json.dumps(await outbox.get()))

    def _receive(self, message: dict[str, Any]) -> bool:
        """Handles a message. False if the connection must be made anew."""
        kind = message["t"]
        subscription = self._by_number.get(message.get("s"))
        if kind == "subscribed":
            asked = self._by_id.get(message["id"]) if "id" in message else subscription
            if asked is None:
                # It was closed while the answer was on its way.
                self._send({"t": "unsubscribe", "s": message["s"]})
            else:
                self._by_number[message["s"]] = asked
                asked._subscribed(message)
        elif kind == "progress":
            for number, at in message.get("at", {}).items():
                if (caught_up := self._by_number.get(int(number))) is not None:
                    caught_up._progress(at)
        elif kind == "error":
            self._refused(message)
        elif subscription is None:
            pass
        elif kind == "snapshot":
            subscription._snapshot()
        elif kind == "rows":
            subscription._rows(message["rows"])
        elif kind == "ready":
            subscription._ready(message)
        elif kind == "delta":
            if not subscription._delta(message):
                self._ask_again(subscription)
        elif kind == "unsubscribed":
            self._by_number.pop(message["s"], None)
            subscription._number = None
            if message.get("why") == "expired":
                # The token: a new connection asks for a new one.
                return False
            self._by_id.pop(subscription._id, None)
            subscription._end(LiveError(message.get("why", "dropped")))
        # "gap" needs no action: a snapshot follows. Messages that this version does not know are ignored.
        return True

    def _ask_again(self, subscription: Subscription) -> None:
        """Asks for a whole snapshot."""
        if subscription._number is not None:
            self._by_number.pop(subscription._number, None)
            self._send({"t": "unsubscribe", "s": subscription._number})
        subscription._cut()
        subscription._cursor = None
        self._ask(subscription)

    def _refused(self, message: dict[str, Any]) -> None:
        subscription = self._by_id.get(message.get("id"))
        if subscription is None:
            return
        if message.get("retry"):
            asyncio.get_running_loop().call_later(
                1, lambda: self._by_id.get(subscription._id) is subscription and self._ask(subscription)
            )
        else:
            self._by_id.pop(subscription._id, None)
            subscription._end(LiveError(message["code"], message.get("message", "")))


def _parse(cursor: str) -> tuple[str, int]:
    epoch, _, sequence = cursor.rpartition(".")
    return epoch, int(sequence)


def _rank(value: Any) -> int:
    if isinstance(value, bool):
        return 0
    if isinstance(value, (int, float)):
        return 1
    return 2 if isinstance(value, str) else 3


def _compare(a: Any, b: Any) -> int:
    """The order of views: booleans, numbers, text by code point, nulls last."""
    if a is None or b is None:
        return (a is None) - (b is None)
    left, right = _rank(a), _rank(b)
    if left != right:
        return left - right
    if left == 3:
        a, b = json.dumps(a), json.dumps(b)
    return (a > b) - (a < b)
