"""Which calls share a pass, and that sharing changes nothing."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.types import OpKey
from backend.worker import batch
from backend.worker.batch import ModelCall
from tests.backend.worker.fakes import Formula


def a_call(network, op="a", rows=1, size=4, length=77, patches=(), extra=None):
    x = torch.randn(rows, 4, size, size)
    tokens = torch.randn(rows, length, 8)
    return ModelCall(OpKey(op), network, x, torch.full((rows,), 7.0), tokens, extra or {}, patches)


def test_calls_of_one_network_and_shape_share_a_pass_whatever_their_ops_and_loras():
    network = Formula()
    calls = [a_call(network, "a"), a_call(network, "b", rows=3), a_call(network, "c", patches=(0.5,))]
    assert batch.groups(calls) == [[0, 1, 2]]


def test_another_network_size_or_extra_input_is_another_pass():
    network = Formula()
    calls = [
        a_call(network),
        a_call(Formula()),
        a_call(network, size=8),
        a_call(network, extra={"concat": torch.zeros(1, 5, 4, 4)}),
        a_call(network),
    ]
    assert batch.groups(calls) == [[0, 4], [1], [2], [3]]


def test_token_numbers_share_a_pass_where_their_common_multiple_is_near():
    network = Formula()
    calls = [a_call(network, length=n) for n in (77, 154, 308, 385)]
    assert batch.groups(calls) == [[0, 1, 2], [3]]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([77, 154, 231, 385])), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_a_batched_row_equals_the_row_alone(shapes, max_rows):
    network = Formula()
    calls = [a_call(network, str(i), rows, length=n) for i, (rows, n) in enumerate(shapes)]
    members = batch.groups(calls)
    assert sorted(i for group in members for i in group) == list(range(len(calls)))
    for group in members:
        outputs, passes = batch.run([calls[i] for i in group], max_rows)
        assert max(done.rows for done in passes) <= max_rows
        assert sum(done.rows for done in passes) == sum(len(calls[i].x) for i in group)
        for i, output in zip(group, outputs, strict=True):
            alone = network.forward(calls[i].x, calls[i].timesteps, calls[i].tokens)
            assert torch.allclose(output, alone, atol=1e-6)


def test_rows_over_the_limit_are_split_evenly_and_a_pass_counts_the_ops_in_it():
    network = Formula()
    calls = [a_call(network, "a", rows=5), a_call(network, "b", rows=4)]
    _, passes = batch.run(calls, 8)
    assert [(done.rows, done.ops) for done in passes] == [(5, 1), (4, 1)]
    _, passes = batch.run(calls, 9)
    assert [(done.rows, done.ops) for done in passes] == [(9, 2)]


def test_each_row_has_its_own_loras():
    network = Formula()
    plain, strong = a_call(network, "a", rows=2), a_call(network, "b", patches=(5.0,))
    (one, two), _ = batch.run([plain, strong], 8)
    assert torch.allclose(one, network.forward(plain.x, plain.timesteps, plain.tokens))
    assert torch.allclose(two, network.forward(strong.x, strong.timesteps, strong.tokens) + 5.0)


def test_texts_of_different_lengths_share_a_pass_only_where_the_model_can_repeat_them():
    network = Formula()
    calls = [a_call(network, "a", length=77), a_call(network, "b", length=154)]
    assert batch.groups(calls) == [[0, 1]]
    joint = [replace(call, mixes_lengths=False) for call in calls]
    assert batch.groups(joint) == [[0], [1]]
    assert batch.groups([joint[0], replace(joint[0], op=OpKey("c"))]) == [[0, 1]]
