"""The thread that third-party nodes run in: one, with an event loop, so that no two of them ever overlap but
where a coroutine awaits. What is not a coroutine holds the loop until it returns.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeAlias

Work: TypeAlias = Callable[[], Coroutine[object, object, None]]


class ForeignThread:
    """Takes coroutines from any thread and runs them in order of arrival."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Have a coroutine run. It must not raise."""
        self._waiting.append(work)
        self._loop.call_soon_threadsafe(self._begin)

    def call(self, work: Callable[[], object]) -> None:
        """Have a plain function called in the thread."""
        self._loop.call_soon_threadsafe(work)

    def cancel(self, task: "asyncio.Task[None]") -> None:
        """Cancel a task of this thread, at the point where it awaits."""
        self._loop.call_soon_threadsafe(task.cancel)

    def retire(self) -> list[Work]:
        """Take nothing new; end once all tasks have. One that holds the loop for ever keeps the thread.

        Returns: what has not begun, and won't.
        """
        left = list[Work]()
        with suppress(IndexError):
            while True:
                left.append(self._waiting.popleft())
        self._loop.call_soon_threadsafe(self._retire)
        return left

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _begin(self) -> None:
        try:
            work = self._waiting.popleft()
        except IndexError:  # the thread was retired
            return
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._retired and not self._tasks:
            self._loop.stop()

    def _retire(self) -> None:
        self._retired = True
        if not self._tasks:
            self._loop.stop()
