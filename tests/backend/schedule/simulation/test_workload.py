"""Traffic has the statistics that were published."""

from collections import Counter

import pytest

from backend.schedule.simulation.catalogue import Catalogue, read
from backend.schedule.simulation.workload import PRESETS, Traffic, jobs


def drawn(preset: str, **more: object):
    return jobs(Traffic(preset, **{"rate": 2.0, "seconds": 3600.0, **more}), Catalogue())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_rate_is_what_was_asked_for(preset):
    assert len(drawn(preset)) == pytest.approx(7200, rel=0.12)


def test_images_come_in_the_published_shares():
    counts = Counter(job.images for job in drawn("calm"))
    total = sum(counts.values())
    for images, share in read("workload")["request"]["images"].items():
        assert counts[int(images)] / total == pytest.approx(share, abs=0.03)


def test_the_tail_is_as_long_as_published():
    counts = Counter(job.base for job in drawn("long_tail")).most_common()
    total = sum(count for _, count in counts)
    assert counts[0][1] / total == pytest.approx(0.307, abs=0.03)
    assert sum(count for _, count in counts[:10]) / total == pytest.approx(0.866, abs=0.03)


def test_adapters_are_as_common_as_published():
    found = drawn("adapter_heavy")
    assert sum(bool(j.controlnets) for j in found) / len(found) > 0.95
    assert sum(bool(j.loras) for j in found) / len(found) == pytest.approx(0.95, abs=0.02)


def test_few_jobs_of_the_video_mix_are_most_of_its_work():
    found = drawn("video_mix")
    long = [job for job in found if job.base.family.name == "video"]
    assert len(long) / len(found) == pytest.approx(0.05, abs=0.01)
    assert sum(j.work for j in long) > 0.5 * sum(j.work for j in found)


def test_a_burst_multiplies_arrivals_while_it_lasts():
    found = drawn("busy_hour", step=8.0, step_from=600.0, step_to=1200.0)
    hit = sum(600 <= job.arrived < 1200 for job in found)
    assert hit == pytest.approx(8 * 2 * 600, rel=0.1)


def test_a_day_is_busiest_in_the_evening():
    found = drawn("calm", rate=0.1, seconds=86400.0, day=True)
    hours = Counter(int(job.arrived // 3600) for job in found)
    assert max(hours, key=lambda hour: hours[hour]) in (19, 20, 21)
    assert len(found) == pytest.approx(8640, rel=0.05)


def test_a_job_is_due_at_a_multiple_of_its_latency_alone():
    job = drawn("calm", slo=3.0)[0]
    assert job.due == pytest.approx(job.arrived + 3 * job.solo)
    assert job.solo >= job.work
