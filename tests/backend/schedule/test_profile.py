"""What things are taken to cost, before and after they were measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.schedule.profile import Profile, published
from backend.types import ComponentId
from tests.backend.schedule.build import took

SD15, FLUX = ComponentId("sd15"), ComponentId("flux")
GIB = 1 << 30


def a_profile() -> Profile:
    profile = Profile()
    profile.guess_size(SD15, 1.6 * GIB)
    profile.guess_size(FLUX, 22.0 * GIB)
    return profile


def test_before_it_ran_a_component_costs_what_the_most_similar_published_one_does():
    profile = a_profile()
    assert profile.step(SD15, 1) == pytest.approx(0.0166)
    assert profile.step(SD15, 8) == pytest.approx(0.0346)
    assert profile.step(FLUX, 2) == pytest.approx(0.431)
    assert profile.op("EncodeText clip", "text_encoder", ComponentId("clip")) > 0


def test_small_networks_gain_by_batching_large_ones_do_not():
    profile = a_profile()
    assert profile.pays(SD15, 2, 2)
    assert not profile.pays(FLUX, 1, 1)


def test_what_was_measured_tells_how_this_machine_compares():
    profile = a_profile()
    profile.observe_step(SD15, 2, 0.294)  # 17 times what was published
    assert profile.step(SD15, 2) == 0.294
    assert profile.step(SD15, 8) == pytest.approx(0.294 * 34.6 / 17.3)
    assert profile.step(FLUX, 1) == pytest.approx(0.224 * 0.294 / 0.0173)


def test_between_two_measurements_lies_a_line():
    profile = a_profile()
    took(profile, SD15, {2: 0.2, 6: 0.6})
    assert profile.step(SD15, 4) == pytest.approx(0.4)


def test_one_slow_pass_of_many_rows_does_not_end_batching():
    profile = Profile(on_cpu=True)
    for _ in range(5):
        profile.observe_step(SD15, 2, 0.2)
    profile.observe_step(SD15, 4, 9.0)  # another program had the machine
    assert profile.pays(SD15, 2, 2)


def test_passes_that_are_slow_each_time_end_batching_until_that_was_long_ago():
    profile = Profile(on_cpu=True)
    profile.observe_step(SD15, 2, 0.2)
    for _ in range(10):
        profile.observe_step(SD15, 4, 0.5)
    assert not profile.pays(SD15, 2, 2)
    for _ in range(20):
        profile.observe_step(SD15, 2, 0.2)
    assert not profile.pays(SD15, 2, 2)
    for _ in range(80):
        profile.observe_step(SD15, 2, 0.2)
    assert profile.pays(SD15, 2, 2)


def test_a_network_that_never_gained_by_more_rows_is_not_tried_again():
    profile = a_profile()
    for rows in (1, 2):
        profile.observe_step(FLUX, rows, 0.3 * rows)
    for _ in range(500):
        profile.observe_step(FLUX, 1, 0.3)
    assert not profile.pays(FLUX, 1, 1)


def test_a_faster_measurement_is_believed_sooner_than_a_slower_one():
    profile = a_profile()
    profile.observe_load(SD15, 10.0)
    profile.observe_load(SD15, 20.0)
    assert profile.load(SD15) == pytest.approx(11.0)
    profile.observe_load(SD15, 5.0)
    assert profile.load(SD15) == pytest.approx(8.0)


def test_a_size_is_a_guess_until_it_was_measured():
    profile = a_profile()
    assert not profile.exact(SD15)
    profile.observe_size(SD15, 3.0 * GIB)
    assert profile.exact(SD15)
    assert profile.nbytes(SD15) == 3.0 * GIB


@given(
    st.dictionaries(st.integers(1, 32), st.floats(1e-4, 10), max_size=5),  # measured seconds by rows
    st.integers(1, 64),
)
def test_every_pass_takes_some_time(measured, rows):
    profile = a_profile()
    for known, seconds in measured.items():
        profile.observe_step(SD15, known, seconds)
    assert profile.step(SD15, rows) > 0


@given(st.lists(st.tuples(st.sampled_from([SD15, FLUX]), st.integers(1, 8), st.floats(1e-3, 10)), max_size=9))
def test_a_profile_survives_being_written_down(passes):
    profile, again = a_profile(), a_profile()
    for component, rows, seconds in passes:
        profile.observe_step(component, rows, seconds)
    profile.observe_load(SD15, 2.0)
    profile.observe_op("Call KSampler", 0.5)
    profile.observe_size(FLUX, 5.0)
    again.restore(list(profile.costs()))
    assert set(again.costs()) == set(profile.costs())
    assert again.step(FLUX, 3) == profile.step(FLUX, 3)


def test_the_published_figures_are_packaged():
    assert {p.role for p in published()} == {"denoiser", "text_encoder", "vae", "other"}


def test_on_a_cpu_a_pass_of_two_rows_takes_most_of_the_time_of_two_passes():
    profile = Profile(on_cpu=True)
    profile.observe_size(SD15, 1.6 * GIB)
    profile.observe_step(SD15, 2, 2.0)
    assert profile.step(SD15, 1) == pytest.approx(2.0 / 1.72)
    assert profile.dealt(SD15, rows=2, parts=2, devices=2) < 0.6 * profile.step(SD15, 2)
