"""Threads that take work in order, and that can be left behind where the work never returns."""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Threads:
    """A fixed number of threads over one queue. All are daemons: one that hangs does not keep the process."""

    def __init__(self, count: int, name: str) -> None:
        self._name, self._work = name, SimpleQueue[Callable[[], object] | None]()
        self._lock = threading.Lock()
        self._left: set[threading.Thread] = set()
        self._count, self._started = count, 0
        for _ in range(count):
            self._add()

    def submit(self, work: Callable[[], object]) -> None:
        """Have `work` done by the next free thread. It must not raise."""
        self._work.put(work)

    def replace(self, thread: threading.Thread) -> None:
        """Start another thread in the place of one that hangs; that one ends when its work does, if ever."""
        with self._lock:
            self._left.add(thread)
        self._add()

    def stop(self) -> None:
        """Start no more work. What runs is not waited for."""
        with self._lock:
            while not self._work.empty():
                self._work.get_nowait()
        for _ in range(self._count):
            self._work.put(None)

    def _add(self) -> None:
        with self._lock:
            self._started += 1
            name = f"{self._name}-{self._started}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # else an idle thread would keep what its last call was given
            with self._lock:
                if threading.current_thread() in self._left:
                    self._left.discard(threading.current_thread())
                    return
