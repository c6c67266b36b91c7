"""What `/object_info` says of a class: ComfyUI's shape, as the front end reads it."""

import json
from dataclasses import replace
from typing import Annotated

import pytest

from backend.node import (
    Boolean,
    Choice,
    Float,
    HiddenInput,
    InputSpec,
    Int,
    NodeSpec,
    OutputSpec,
    Result,
    String,
    node,
)
from backend.settings import Settings
from backend.storage import Storage
from backend.types import AnyValue, Image, Mask
from comfy_compat.object_info import object_info
from nodes.catalogue import builtin_registry


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(Settings(base_directory=tmp_path))


@node(
    "Everything", category="a/b", display_name="Every Thing", module="comfy_extras.x", outputs=("one", "two")
)
def everything(
    *,
    image: Image,
    count: Annotated[int, Int(1, 9, step=2, tooltip="How many")] = 3,
    ratio: Annotated[float, Float(0.0, 1.0, round=0.01)] = 0.5,
    text: Annotated[str, String(multiline=True, dynamic_prompts=True)] = "",
    switch: Annotated[bool, Boolean(label_on="yes")] = True,
    older: Annotated[str, Choice(["a", "b"])] = "b",
    plain: Annotated[str, Choice(["a", "b"])],
    newer: Annotated[str, Choice(["a", "b"], "COMBO", multiselect=False)],
    files: Annotated[str, Choice(lambda storage: storage.files("vae"))],
    mask: Mask | None = None,
    any: AnyValue | None = None,
    prompt: Annotated[object, HiddenInput("PROMPT")],
    storage: Storage,
) -> tuple[Image, Mask]:
    """What it does."""
    raise NotImplementedError


def test_a_class_in_full(storage, tmp_path):
    (tmp_path / "models" / "vae").mkdir(parents=True)
    (tmp_path / "models" / "vae" / "x.safetensors").touch()
    assert object_info(everything, storage) == {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "count": ["INT", {"default": 3, "min": 1, "max": 9, "step": 2, "tooltip": "How many"}],
                "ratio": ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "round": 0.01}],
                "text": ["STRING", {"default": "", "multiline": True, "dynamicPrompts": True}],
                "switch": ["BOOLEAN", {"default": True, "label_on": "yes"}],
                "older": [["a", "b"], {"default": "b"}],
                "plain": [["a", "b"]],
                "newer": ["COMBO", {"options": ["a", "b"], "multiselect": False}],
                "files": [["x.safetensors"]],
            },
            "optional": {"mask": ["MASK"], "any": ["*"]},
            "hidden": {"prompt": "PROMPT"},
        },
        "input_order": {
            "required": [
                *("image", "count", "ratio", "text", "switch", "older", "plain", "newer", "files"),
            ],
            "optional": ["mask", "any"],
            "hidden": ["prompt"],
        },
        "output": ["IMAGE", "MASK"],
        "output_is_list": [False, False],
        "output_name": ["one", "two"],
        "name": "Everything",
        "display_name": "Every Thing",
        "description": "What it does.",
        "python_module": "comfy_extras.x",
        "category": "a/b",
        "output_node": False,
    }


def a_spec(**changes: object) -> NodeSpec:
    given = {"name": "N", "function": print, "kind": "value", "category": "c", "inputs": (), "outputs": ()}
    return NodeSpec(**{**given, **changes})


def test_a_class_without_anything_still_has_every_key(storage):
    info = object_info(a_spec(output_node=True), storage)
    assert info["input"] == {"required": {}}
    assert info["input_order"] == {"required": []}
    assert (info["output"], info["output_is_list"], info["output_name"]) == ([], [], [])
    assert (info["display_name"], info["description"], info["output_node"]) == ("N", "", True)


def test_flags_are_true_or_absent(storage):
    extra = {"deprecated": True, "experimental": 1, "api_node": False, "dev_only": None, "own_mark": 1}
    info = object_info(a_spec(extra=extra), storage)
    assert info["deprecated"] is True
    assert info["experimental"] is True
    assert not {"api_node", "dev_only", "own_mark"} & set(info)


def test_facts_are_handed_on(storage):
    info = object_info(a_spec(extra={"search_aliases": ["blur"], "essentials_category": "Basics"}), storage)
    assert (info["search_aliases"], info["essentials_category"]) == (["blur"], "Basics")


def test_outputs_may_be_lists_choices_and_explained(storage):
    outputs = (OutputSpec("INT", "n", is_list=True, tooltip="numbers"), OutputSpec(("a", "b"), "pick"))
    info = object_info(a_spec(outputs=outputs), storage)
    assert info["output"] == ["INT", ["a", "b"]]
    assert info["output_is_list"] == [True, False]
    assert info["output_tooltips"] == ["numbers", ""]


def test_a_lazy_input_says_so(storage):
    info = object_info(a_spec(inputs=(InputSpec("x", "IMAGE", {}, lazy=True),)), storage)
    assert info["input"] == {"required": {"x": ["IMAGE", {"lazy": True}]}}


def test_new_files_are_seen_by_the_next_call(storage, tmp_path):
    def files() -> object:
        return object_info(everything, storage)["input"]["required"]["files"]

    assert files() == [[]]
    (tmp_path / "models" / "vae").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "vae" / "new.safetensors").touch()
    assert files() == [["new.safetensors"]]


def test_every_built_in_class_is_json_of_the_front_ends_shape(storage):
    specs = list(builtin_registry())
    assert specs
    for spec in specs:
        info = object_info(spec, storage)
        assert json.loads(json.dumps(info)) == info
        assert isinstance(info["description"], str)
        assert isinstance(info["output_node"], bool)
        assert all(type(flag) is bool for flag in info["output_is_list"])
        sections = info["input"]
        assert {name: list(inputs) for name, inputs in sections.items()} == info["input_order"]
        for section in set(sections) - {"hidden"}:
            for type_, *options in sections[section].values():
                assert isinstance(type_, str | list)
                assert all(isinstance(option, dict) for option in options)


def test_describing_a_class_does_not_change_it(storage):
    before = replace(everything)
    info = object_info(everything, storage)
    info["input"]["required"]["count"][1]["min"] = 100
    assert everything == before
    assert object_info(everything, storage)["input"]["required"]["count"][1]["min"] == 1


def test_result_nodes_have_no_outputs(storage):
    @node("Sink", category="c", output_node=True)
    def sink(*, image: Image) -> Result:
        raise NotImplementedError

    assert object_info(sink, storage)["output"] == []
