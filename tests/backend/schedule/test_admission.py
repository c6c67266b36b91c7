"""Which jobs are refused while more comes than can be done."""

from backend.schedule.admission import Admission, Pace


def offered(admission: Admission, works: list[float], every: float, pace: float = 1.0) -> list[bool]:
    return [admission.takes(n, work, pace, n * every) for n, work in enumerate(works)]


def test_what_can_be_done_is_taken_whatever_its_size():
    assert all(offered(Admission(), [1.0, 1.0, 1.0, 20.0] * 50, every=10.0))


def test_of_too_much_the_largest_are_refused():
    works = [1.0, 1.0, 30.0, 40.0] * 50
    late = list(zip(works, offered(Admission(), works, every=2.0), strict=True))[100:]
    assert all(took for work, took in late if work == 1.0)
    assert not any(took for work, took in late if work == 40.0)


def test_a_job_gets_the_same_answer_each_time():
    admission = Admission()
    offered(admission, [5.0] * 30, every=1.0)
    first = admission.takes("job", 50.0, 1.0, 31.0)
    assert first is admission.takes("job", 1.0, 1.0, 1000.0) is False


def test_after_a_rush_all_sizes_are_taken_again():
    admission = Admission()
    offered(admission, [5.0] * 100, every=0.5)
    assert admission.limit <= 5.0
    assert admission.takes("later", 500.0, 1.0, 1000.0)


def test_shared_passes_raise_the_pace_and_old_ones_count_less():
    pace = Pace()
    assert pace.value == 1.0
    for _ in range(300):
        pace.note(alone=2.0, taken=1.0)
    assert 1.9 < pace.value < 2.0
