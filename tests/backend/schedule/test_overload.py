"""Which jobs go last while more comes than can be done."""

from backend.schedule.overload import Overload, Pace


def offered(overload: Overload, works: list[float], every: float, pace: float = 1.0) -> list[bool]:
    return [overload.defers(n, work, pace, n * every) for n, work in enumerate(works)]


def test_of_what_can_be_done_nothing_goes_last_whatever_its_size():
    assert not any(offered(Overload(), [1.0, 1.0, 1.0, 20.0] * 50, every=10.0))


def test_of_too_much_the_largest_go_last():
    works = [1.0, 1.0, 30.0, 40.0] * 50
    late = list(zip(works, offered(Overload(), works, every=2.0), strict=True))[100:]
    assert not any(deferred for work, deferred in late if work == 1.0)
    assert all(deferred for work, deferred in late if work == 40.0)


def test_what_is_left_of_a_job_counts_not_what_it_was():
    overload = Overload()
    offered(overload, [5.0] * 100, every=0.5)
    assert overload.defers("job", 50.0, 1.0, 50.0)
    assert not overload.defers("job", 1.0, 1.0, 60.0)


def test_a_job_counts_once_however_many_ops_it_has():
    few, many = Overload(), Overload()
    offered(few, [1.0] * 30, every=2.0)
    for now in range(0, 60, 2):
        for _ in range(5):
            many.defers(now, 1.0, 1.0, float(now))
    assert few.limit == many.limit == float("inf")


def test_after_a_rush_no_size_goes_last():
    overload = Overload()
    offered(overload, [5.0] * 100, every=0.5)
    assert overload.limit <= 5.0
    assert not overload.defers("later", 500.0, 1.0, 1000.0)


def test_shared_passes_raise_the_pace_and_old_ones_count_less():
    pace = Pace()
    assert pace.value == 1.0
    for _ in range(300):
        pace.note(alone=2.0, taken=1.0)
    assert 1.9 < pace.value < 2.0
