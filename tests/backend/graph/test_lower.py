from dataclasses import replace

import pytest

from backend.graph.lower import MISSING, Lowering, NodeRaised, Submitter, inputs_of
from backend.graph.parse import parse_prompt
from backend.node import NodeSpec, node
from backend.ops import Call, DecodeLatent, Denoise, EncodeText, Op, Part
from backend.references import Ref
from backend.types import ClientId, JobKey, Latent, NodeId, OpKey
from tests.backend.graph.toys import a_registry, a_sum_prompt, an_image_prompt, sample


def lowering(
    prompt: object, outputs: tuple[str, ...] = ("6",), client: str = "c", *more: NodeSpec
) -> Lowering:
    submitter = Submitter(JobKey(1), ClientId(client))
    nodes = [NodeId(o) for o in outputs]
    return Lowering(parse_prompt(prompt), nodes, a_registry(*more), {}, submitter)


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
    assert [type(op) for op in low.ops.values()] == [EncodeText, Call, Denoise, DecodeLatent, Call]
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
    renumbered = {
        f"x{id}": {
            "class_type": n["class_type"],
            "inputs": {k: [f"x{v[0]}", v[1]] if isinstance(v, list) else v for k, v in n["inputs"].items()},
        }
        for id, n in prompt.items()
    }
    low = lowering(renumbered, ("x6",))
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


def test_nested_ops_and_parts_are_flattened():
    @node("Both", category="toys")
    def both(*, latent: Latent) -> tuple[Op[Latent], Op[Latent]]:
        inner = sample.function(model=MODEL, positive=Ref(OpKey("p")), latent=latent)
        outer = sample.function(model=MODEL, positive=Ref(OpKey("p")), latent=inner)
        return outer, Part(outer, 1)

    low = Lowering(parse_prompt(an_image_prompt()), [NodeId("1")], a_registry(), {}, Submitter(JobKey(1)))
    low.advance(nothing, unknown)
    MODEL = low._wires[NodeId("1"), 0][0]
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
