"""Ops within ops, wherever they stand."""

from backend.components import Weights
from backend.graph.flatten import flatten, inputs_of
from backend.ops import DecodeLatent, EncodePixels, Op, WithOptions
from backend.references import Ref, Vae
from backend.types import OpKey

VAE = Vae(Weights("vae", "digest", ()))


def flat(op) -> dict[OpKey, Op[object]]:
    ops: dict[OpKey, Op[object]] = {}
    assert isinstance(flatten(op, ops), Ref)
    return ops


def test_an_op_among_a_conditions_options_becomes_an_op_of_its_own_that_is_waited_for():
    picture = EncodePixels(VAE, Ref(OpKey("pixels")))
    ops = flat(WithOptions(Ref(OpKey("text")), {"strength": 1.0, "concat_latent_image": picture}))
    (encode, options) = ops
    assert isinstance(ops[encode], EncodePixels)
    assert inputs_of(ops[options]) == ("text", encode)
    assert ops[options].options["strength"] == 1.0


def test_equal_nested_ops_are_one_and_inputs_come_first():
    picture = EncodePixels(VAE, Ref(OpKey("pixels")))
    ops = flat(DecodeLatent(VAE, picture)) | flat(picture)
    assert [type(op) for op in ops.values()] == [EncodePixels, DecodeLatent]


def test_options_without_ops_stay_the_very_same():
    op = WithOptions(Ref(OpKey("text")), {"strength": 1.0})
    (kept,) = flat(op).values()
    assert kept is op
