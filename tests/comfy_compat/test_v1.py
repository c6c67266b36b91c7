"""Classic node classes as specs."""

import pytest
import torch

from backend.graph.parse import parse_prompt
from backend.graph.validate import validate
from backend.registry import Registry
from backend.types import Blocked, Cond, Latent
from comfy_compat.graphs import ExecutionBlocker
from comfy_compat.v1 import BadClass, spec_of


def a_class(**more):
    """A class that returns what it is given."""
    members = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": {"x": ("INT", {"default": 1, "min": 0})}}),
        "RETURN_TYPES": ("INT",),
        "FUNCTION": "run",
        "run": lambda self, **given: (given["x"],),
        **more,
    }
    return type("Probe", (), members)


def declaring(**sections):
    return classmethod(lambda cls: sections)


def run(spec, **inputs):
    return spec.function(spec.make(), **inputs)


def test_inputs_keep_their_order_options_and_whether_they_may_be_left_out():
    declared = declaring(
        required={"b": ("INT", {"default": 3, "foo": 1}), "a": ("STRING",)}, optional={"c": ("MODEL",)}
    )
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "custom_nodes.p")
    assert [(i.name, i.type, i.optional) for i in spec.inputs] == [
        ("b", "INT", False),
        ("a", "STRING", False),
        ("c", "MODEL", True),
    ]
    assert spec.input("b").options == {"default": 3, "foo": 1}


def test_the_options_of_a_combo_are_those_of_the_moment():
    among = ["one"]
    declared = classmethod(lambda cls: {"required": {"x": (list(among), {})}})
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "p")
    among.append("two")
    assert spec.input("x").choice.now(None) == ["one", "two"]


class Anything(str):
    """A wildcard as packs write it: equal to all, and without a hash."""

    def __eq__(self, _):
        return True

    def __ne__(self, _):
        return False


def test_a_wildcard_without_a_hash_takes_literals_and_leaves_them_what_they_are():
    any_ = Anything("*")
    declared = declaring(required={"x": (any_, {"default": 0})})
    spec = spec_of("P", a_class(INPUT_TYPES=declared, RETURN_TYPES=(any_,), OUTPUT_NODE=True), "p")
    prompt = {"1": {"class_type": "P", "inputs": {"x": 3}}}
    checked = validate(parse_prompt(prompt), Registry([spec]), {})
    assert checked.errors == {}
    assert run(spec, x=[]).values == ([],)


def test_combos_of_both_forms_are_read():
    declared = declaring(required={"x": ("COMBO", {"options": ["a"], "default": "a"}), "y": (["b"],)})
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "p")
    assert [(i.type, i.choice.style, i.choice.now(None)) for i in spec.inputs] == [
        ("COMBO", "COMBO", ["a"]),
        ("COMBO", "list", ["b"]),
    ]
    assert spec.input("x").config(["a"]) == ["COMBO", {"options": ["a"], "default": "a"}]


def test_lazy_and_raw_inputs_are_marked():
    declared = declaring(required={"x": ("*", {"lazy": True}), "y": ("*", {"rawLink": True})})
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "p")
    assert (spec.input("x").lazy, spec.input("y").raw_link) == (True, True)
    assert spec.check_lazy is None


def test_a_dict_that_has_every_key_takes_every_input():
    class Every(dict):
        def __contains__(self, key):
            return True

    declared = declaring(required={}, optional=Every(known=("INT",)))
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "p")
    assert spec.input("known").type == "INT"
    assert (spec.input("anything").type, spec.input("anything").optional) == ("*", True)


def test_without_such_a_dict_unknown_inputs_stay_unknown():
    assert spec_of("P", a_class(), "p").input("anything") is None


def test_hidden_inputs_are_the_servers_and_others_the_prompts():
    declared = declaring(required={}, hidden={"id": "UNIQUE_ID", "start": ("*",)})
    spec = spec_of("P", a_class(INPUT_TYPES=declared), "p")
    assert spec.hidden == {"id": "UNIQUE_ID"}
    assert spec.input("start").optional


def test_a_dict_of_results_has_its_ui_and_its_expansion_taken_apart():
    answer = {
        "ui": {"text": ["t"]},
        "result": (["n", 0],),
        "expand": {"n": {"class_type": "A", "inputs": {}}},
    }
    result = run(spec_of("P", a_class(run=lambda self, **_: answer), "p"), x=1)
    assert (result.values, result.ui, result.expand) == ((["n", 0],), answer["ui"], answer["expand"])


def test_missing_outputs_are_none_and_surplus_ones_dropped():
    cls = a_class(RETURN_TYPES=("INT", "INT"), run=lambda self, x: (1,) * x)
    spec = spec_of("P", cls, "p")
    assert run(spec, x=1).values == (1, None)
    assert run(spec, x=3).values == (1, 1)


def test_a_blocker_for_all_outputs_or_one_is_ours():
    cls = a_class(RETURN_TYPES=("INT", "INT"), run=lambda self, x: ExecutionBlocker("no"))
    assert run(spec_of("P", cls, "p"), x=1).values == (Blocked("no"), Blocked("no"))
    cls = a_class(RETURN_TYPES=("INT", "INT"), run=lambda self, x: (x, ExecutionBlocker(None)))
    assert run(spec_of("P", cls, "p"), x=1).values == (1, Blocked(None))


def test_latents_and_conditions_have_comfyuis_shapes_inside():
    seen = {}

    def look(self, **given):
        seen.update(given)
        return given["latent"], given["condition"]

    declared = declaring(required={"latent": ("LATENT",), "condition": ("CONDITIONING",)})
    cls = a_class(INPUT_TYPES=declared, RETURN_TYPES=("LATENT", "CONDITIONING"), run=look)
    samples, tokens, pooled = torch.zeros(1, 4, 8, 8), torch.ones(1, 77, 8), torch.ones(1, 8)
    latent = Latent(samples, batch_index=(3,), extra={"type": "audio"})
    condition = (Cond(tokens, pooled, {"strength": 0.5}),)
    result = run(spec_of("P", cls, "p"), latent=latent, condition=condition)
    assert seen["latent"] == {"samples": samples, "batch_index": [3], "type": "audio"}
    assert seen["condition"] == [[tokens, {"pooled_output": pooled, "strength": 0.5}]]
    assert result.values == (latent, condition)


def test_lists_of_latents_are_turned_one_by_one():
    cls = a_class(
        INPUT_TYPES=declaring(required={"x": ("LATENT",)}),
        RETURN_TYPES=("LATENT",),
        INPUT_IS_LIST=True,
        OUTPUT_IS_LIST=(True,),
        run=lambda self, x: ([{"samples": one["samples"] + 1} for one in x],),
    )
    [[first, second]] = run(spec_of("P", cls, "p"), x=[Latent(torch.zeros(1)), Latent(torch.ones(1))]).values
    assert (first.samples.item(), second.samples.item()) == (1, 2)


def test_what_a_validator_takes_is_read_from_its_parameters():
    named = a_class(VALIDATE_INPUTS=classmethod(lambda cls, x, input_types: True))
    every = a_class(VALIDATE_INPUTS=classmethod(lambda cls, **kwargs: True))
    assert spec_of("P", named, "p").validates == ("x", "input_types")
    assert spec_of("P", every, "p").validates_all


def test_coroutines_are_told_apart():
    async def run_async(self, x):
        return (x,)

    assert spec_of("P", a_class(run=run_async), "p").is_async
    assert not spec_of("P", a_class(), "p").is_async


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"FUNCTION": "nothing"}, "names 'nothing' as its FUNCTION"),
        ({"INPUT_TYPES": classmethod(lambda cls: {"required": {"x": 5}})}, "declared as (type, options)"),
    ],
)
def test_what_is_wrong_with_a_class_is_said(more, said):
    with pytest.raises(BadClass, match=said.replace("(", r"\(").replace(")", r"\)")):
        spec_of("P", a_class(**more), "p")


def test_object_info_is_what_the_class_declares_untouched():
    declared = {"required": {"x": ("INT", {"default": 1, "ours": "kept"})}, "hidden": {"p": "PROMPT"}}
    cls = a_class(
        INPUT_TYPES=classmethod(lambda cls: declared),
        RETURN_NAMES=("number",),
        CATEGORY="c",
        DEPRECATED=True,
        OUTPUT_TOOLTIPS=("t",),
    )
    assert spec_of("P", cls, "custom_nodes.p", "Title").extra["info"]() == {
        "input": declared,
        "input_order": {"required": ["x"], "hidden": ["p"]},
        "output": ("INT",),
        "output_is_list": [False],
        "output_name": ("number",),
        "name": "P",
        "display_name": "Title",
        "description": "",
        "python_module": "custom_nodes.p",
        "category": "c",
        "output_node": False,
        "output_tooltips": ("t",),
        "deprecated": True,
    }
