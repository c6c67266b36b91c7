from dataclasses import replace

import pytest

from backend.components import File, LoraUse, Weights
from backend.graph.flatten import inputs_of
from backend.graph.keys import content_key, value_key
from backend.graph.lower import Lowering
from backend.graph.lowered import MISSING, NodeRaised, Submitter
from backend.graph.parse import Link, parse_prompt
from backend.node import NodeSpec, node
from backend.ops import Awaiting, Call, DecodeLatent, Denoise, EncodeText, Identify, Needs, Op, Part
from backend.references import Model, Ref
from backend.registry import Registry
from backend.types import ClientId, JobKey, Latent, NodeId, OpKey
from tests.backend.graph.toys import (
    a_registry,
    a_sum_prompt,
    an_image_prompt,
    loader,
    renumbered,
    sample,
    show,
)


def lowering(
    prompt: object, outputs: tuple[str, ...] = ("6",), client: str = "c", *more: NodeSpec
) -> Lowering:
    submitter = Submitter(JobKey(1), ClientId(client))
    nodes = [NodeId(o) for o in outputs]
    return Lowering(parse_prompt(prompt), nodes, a_registry(*more), {}, submitter)


def registry_of(*replaced: NodeSpec) -> Registry:
    names = {spec.name for spec in replaced}
    return Registry([*replaced, *(spec for spec in (loader, show) if spec.name not in names)])


def nothing(ref: Ref) -> object:
    return MISSING


def unknown(key: OpKey) -> None:
    return None


def keys_of(prompt: object, client: str = "c") -> dict[str, OpKey]:
    low = lowering(prompt, client=client)
    low.advance(nothing, unknown)
    return {id: node.key for id, node in low.nodes.items()}


def test_a_workflow_becomes_ops_whose_inputs_come_first():
    low = lowering(an_image_prompt())
    low.advance(nothing, unknown)
    assert low.complete
    assert [type(op) for op in low.ops.values()] == [Call, EncodeText, Denoise, DecodeLatent, Call]
    seen: set[OpKey] = set()
    for key, op in low.ops.items():
        assert seen.issuperset(inputs_of(op))
        seen.add(key)


def test_a_reference_node_adds_no_op():
    low = lowering(an_image_prompt())
    low.advance(nothing, unknown)
    assert low.nodes[NodeId("1")].ops == ()


def test_equal_work_has_equal_keys_whatever_the_node_ids():
    prompt = an_image_prompt()
    low = lowering(renumbered(prompt), ("x6",))
    low.advance(nothing, unknown)
    assert {f"x{id}": key for id, key in keys_of(prompt).items()} == {
        id: n.key for id, n in low.nodes.items()
    }


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        (an_image_prompt(seed=2), {"4", "5", "6"}),
        (an_image_prompt(text="a cat"), {"2", "4", "5", "6"}),
        (an_image_prompt(checkpoint="b"), {"1", "2", "4", "5", "6"}),
    ],
)
def test_a_change_alters_the_keys_of_all_that_hangs_on_it_and_no_others(changed, differing):
    one, other = keys_of(an_image_prompt()), keys_of(changed)
    assert {id for id in one if one[id] != other[id]} == differing


def test_an_output_belongs_to_its_client_and_the_rest_is_shared():
    mine, yours = keys_of(an_image_prompt(), "me"), keys_of(an_image_prompt(), "you")
    assert {id for id in mine if mine[id] != yours[id]} == {"6"}


def test_a_number_that_another_node_computes_is_awaited():
    low = lowering(a_sum_prompt(3, width_from_sum=True))
    first = {node.id for node in low.advance(nothing, unknown)}
    assert first == {"1", "2", "3", "7"}
    assert low.waiting == {low.nodes[NodeId("7")].key}
    second = low.advance(lambda ref: 5, lambda key: (1,))
    assert [node.id for node in second] == ["4", "5", "6"]
    denoise = next(op for op in low.ops.values() if isinstance(op, Denoise))
    assert denoise.noise.seed == 5


def test_a_deep_prompt_is_no_problem():
    prompt = {"0": {"class_type": "Add", "inputs": {"a": 1}}}
    prompt |= {str(i): {"class_type": "Add", "inputs": {"a": [str(i - 1), 0]}} for i in range(1, 3000)}
    prompt["out"] = {"class_type": "Show", "inputs": {"value": ["2999", 0]}}
    low = lowering(prompt, ("out",))
    low.advance(nothing, unknown)
    assert len(low.ops) == 3001


def test_what_a_node_raises_names_the_node():
    with pytest.raises(NodeRaised) as raised:
        lowering(an_image_prompt(checkpoint="missing")).advance(nothing, unknown)
    assert (raised.value.node, raised.value.class_type) == ("1", "Loader")
    assert isinstance(raised.value.cause, FileNotFoundError)


def test_who_asks_for_what_nothing_makes_is_shown_with_its_literals():
    prompt = {**a_sum_prompt(1), "9": {"class_type": "Show", "inputs": {"value": ["7", 0], "tag": "mine"}}}
    low = lowering(prompt, ("9",))
    low.advance(nothing, unknown)
    with pytest.raises(NodeRaised) as raised:
        low.demand(NodeId("9"), Needs(("nothing",)))
    assert raised.value.inputs == {"value": None, "tag": "mine"}


def test_nested_ops_and_parts_are_flattened():
    @node("Both", category="toys")
    def both(*, latent: Latent) -> tuple[Op[Latent], Op[Latent]]:
        inner = sample.function(model=MODEL, positive=Ref(OpKey("p")), latent=latent)
        outer = sample.function(model=MODEL, positive=Ref(OpKey("p")), latent=inner)
        return outer, Part(outer, 1)

    low = Lowering(parse_prompt(an_image_prompt()), [NodeId("1")], a_registry(), {}, Submitter(JobKey(1)))
    low.advance(nothing, unknown)
    (MODEL,), _ = low._wires.source(Link(NodeId("1"), 0), nothing, unknown)
    prompt = {
        "3": {"class_type": "Empty", "inputs": {}},
        "b": {"class_type": "Both", "inputs": {"latent": ["3", 0]}},
        "6": {"class_type": "Show", "inputs": {"value": ["b", 1]}},
    }
    low = lowering(prompt, ("6",), "c", both)
    low.advance(nothing, unknown)
    first, second = (op for op in low.ops.values() if isinstance(op, Denoise))
    assert isinstance(second.latent, Ref)
    assert low.ops[second.latent.key] is first
    shown = low.ops[low.nodes[NodeId("6")].key]
    assert isinstance(shown, Call)
    (ref,) = shown.inputs["value"]
    assert (ref.key, ref.slot) == (low.nodes[NodeId("b")].ops[1], 1)


def test_a_list_output_is_fanned_out_once_its_length_is_known():
    @node("Many", category="toys")
    def many() -> int:
        return 1

    many = replace(many, outputs=(replace(many.outputs[0], is_list=True),))
    prompt = {
        "m": {"class_type": "Many", "inputs": {}},
        "6": {"class_type": "Show", "inputs": {"value": ["m", 0]}},
    }
    low = lowering(prompt, ("6",), "c", many)
    assert [n.id for n in low.advance(nothing, unknown)] == ["m"]
    assert [n.id for n in low.advance(nothing, lambda key: (3,))] == ["6"]
    shown = low.ops[low.nodes[NodeId("6")].key]
    assert isinstance(shown, Call)
    assert [(r.slot, r.item) for r in shown.inputs["value"]] == [(0, 0), (0, 1), (0, 2)]


def test_a_loader_whose_file_is_not_known_is_asked_again_when_it_is():
    known: set[str] = set()
    asked = [Identify(File(name, 1, 1, 1)) for name in ("a", "b")]

    @node("Loader", category="toys")
    def late(*, name: str) -> Model:
        if missing := [op for op in asked if op.file.path not in known]:
            raise Awaiting(*missing)
        return Model(Weights("denoiser", "digest", (asked[0].file,)))

    prompt = {
        "1": {"class_type": "Loader", "inputs": {"name": "x"}},
        "6": {"class_type": "Show", "inputs": {"value": 1, "tag": ["1", 0]}},
    }
    low = Lowering(parse_prompt(prompt), [NodeId("6")], registry_of(late), {}, Submitter(JobKey(1)))
    assert low.advance(nothing, unknown) == []
    keys = {content_key(op) for op in asked}
    assert low.waiting == keys == set(low.ops)
    assert low.targets == keys
    assert low.asked == dict.fromkeys(keys, "1")
    known.update("ab")
    assert [n.id for n in low.advance(nothing, unknown)] == ["1", "6"]
    assert low.complete
    assert low.targets.isdisjoint(keys)


def test_where_weights_are_read_is_no_part_of_what_they_are():
    def model(digest: str, path: str) -> Model:
        file = File(path, len(path), 1, 1)
        return Model(Weights("denoiser", digest, (file,)), (LoraUse(Weights("lora", "l", (file,)), 0.5),))

    assert model("a", "one.safetensors") == model("a", "other.safetensors")
    assert value_key(model("a", "one.safetensors")) == value_key(model("a", "other.safetensors"))
    assert value_key(model("a", "one.safetensors")) != value_key(model("b", "one.safetensors"))
