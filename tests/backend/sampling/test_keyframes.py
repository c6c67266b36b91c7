import pytest

from backend.sampling.keyframes import Frame, Track, stretches

SIGMAS = [14.6, 10.0, 6.0, 3.0, 1.0, 0.5]


def strengths(*frames):
    track = Track([Frame(*frame) for frame in frames])
    return [track.strength(sigma) for sigma in SIGMAS]


def test_without_keyframes_a_hook_is_as_strong_as_it_is():
    assert strengths() == [1.0] * 6


def test_a_keyframe_holds_from_its_sigma_on():
    assert strengths((1e9, 0.2, 0), (6.0, 0.7, 0), (0.7, 2.0, 0)) == [0.2, 0.2, 0.7, 0.7, 0.7, 2.0]


def test_the_first_keyframe_holds_from_the_start_whenever_it_begins():
    assert strengths((3.0, 0.5, 0)) == [0.5] * 6


def test_keyframes_that_are_over_at_once_are_passed_over():
    assert strengths((1e9, 0.1, 0), (1e9, 0.2, 0), (1e9, 0.3, 0))[0] == 0.3


def test_a_keyframe_with_a_step_of_its_own_keeps_it():
    assert strengths((1e9, 0.1, 1), (1e9, 0.2, 1), (1e9, 0.3, 1)) == [0.1, 0.2, 0.3, 0.3, 0.3, 0.3]


def test_asked_twice_at_one_noise_level_the_answer_stays():
    track = Track([Frame(1e9, 0.1, 1), Frame(1e9, 0.2, 1)])
    assert [track.strength(s) for s in (14.6, 14.6, 10.0, 10.0)] == [0.1, 0.1, 0.2, 0.2]


def test_stretches_end_where_any_hook_changes():
    assert stretches([[]]) == [(0.0, 1.0, [1.0])]
    assert stretches([[(0.0, 0.5), (0.4, 0.5), (0.6, 1.0)], [(0.2, 2.0)]]) == [
        (0.0, 0.2, [0.5, 1.0]),
        (0.2, 0.6, [0.5, 2.0]),
        (0.6, 1.0, [1.0, 2.0]),
    ]


@pytest.mark.parametrize("frames", [[(0.0, 0.3), (0.0, 0.9)], [(0.0, 0.9), (1.0, 5.0)]])
def test_of_keyframes_with_one_start_the_last_counts_and_one_at_the_end_never(frames):
    assert stretches([frames])[0] == (0.0, 1.0, [0.9])
