"""Threads over one queue."""

import threading
from queue import Queue

from backend.worker.threads import Threads


def test_work_is_done_in_order_by_a_thread_that_is_replaced_when_it_hangs():
    threads, done, hang = Threads(1, "t"), Queue(), threading.Event()
    stuck = Queue()
    threads.submit(lambda: (stuck.put(threading.current_thread()), hang.wait(30)))
    for number in range(3):
        threads.submit(lambda number=number: done.put(number))
    hung = stuck.get(timeout=10)
    assert done.empty()
    threads.replace(hung)
    assert [done.get(timeout=10) for _ in range(3)] == [0, 1, 2]
    hang.set()
    hung.join(10)
    assert not hung.is_alive()
    threads.submit(lambda: done.put("on"))
    assert done.get(timeout=10) == "on"


def test_stopped_threads_end_and_start_nothing_more():
    before = set(threading.enumerate())
    threads, hang, done = Threads(2, "t"), threading.Event(), Queue()
    threads.submit(lambda: hang.wait(30))
    threads.submit(lambda: hang.wait(30))
    threads.submit(lambda: done.put("late"))
    ours = set(threading.enumerate()) - before
    threads.stop()
    hang.set()
    for thread in ours:
        thread.join(10)
        assert not thread.is_alive()
    assert done.empty()
