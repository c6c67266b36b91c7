"""V3 nodes as specs."""

import pytest

from backend.types import Blocked


@pytest.fixture
def io(comfy):
    from comfy_api.latest import io

    return io


def a_class(io, execute=None, **schema):
    """A V3 class of that schema."""

    class Probe(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(**{"node_id": "Probe", "inputs": [io.Int.Input("x")], **schema})

        @classmethod
        def execute(cls, **given):
            return (execute or (lambda cls, **given: io.NodeOutput(*given.values())))(cls, **given)

    return Probe


def spec_of(cls):
    from comfy_compat.v3 import spec_of_v3

    return spec_of_v3(cls, "custom_nodes.p")


def test_the_schema_is_the_spec(io):
    cls = a_class(
        io,
        display_name="Probe it",
        category="c",
        inputs=[
            io.Int.Input("n", default=1, min=0, tooltip="t"),
            io.Combo.Input("c", options=["a", "b"], lazy=True),
            io.Model.Input("m", optional=True),
        ],
        outputs=[io.Image.Output(display_name="img"), io.Int.Output(is_output_list=True)],
        is_output_node=True,
    )
    spec = spec_of(cls)
    assert (spec.name, spec.display_name, spec.category, spec.output_node) == ("Probe", "Probe it", "c", True)
    assert [(i.name, i.type, i.optional, i.lazy) for i in spec.inputs] == [
        ("n", "INT", False, False),
        ("c", "COMBO", False, True),
        ("m", "MODEL", True, False),
    ]
    assert [(o.type, o.name, o.is_list) for o in spec.outputs] == [
        ("IMAGE", "img", False),
        ("INT", "INT", True),
    ]
    assert spec.hidden == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    assert spec.input("c").choice.now(None) == ["a", "b"]


def test_object_info_has_comfyuis_form(io):
    cls = a_class(io, inputs=[io.Float.Input("f", default=0.5, step=0.1)], hidden=[io.Hidden.unique_id])
    info = spec_of(cls).extra["info"]()
    assert info["input"] == {
        "required": {"f": ("FLOAT", {"default": 0.5, "step": 0.1})},
        "hidden": {"unique_id": ("UNIQUE_ID",)},
    }
    assert (info["display_name"], info["api_node"], info["output"]) == (None, False, [])


def test_hidden_inputs_are_on_the_class_of_the_call(io):
    def execute(cls, x):
        return io.NodeOutput(cls.hidden.unique_id, cls.hidden.prompt)

    outputs = [io.String.Output(), io.String.Output()]
    spec = spec_of(a_class(io, execute, outputs=outputs, hidden=[io.Hidden.unique_id]))
    assert spec.function(spec.make(), x=1, unique_id="7").values == ("7", None)


def test_outputs_ui_blocks_and_expansions_are_taken(io):
    def run(execute, **schema):
        spec = spec_of(a_class(io, execute, outputs=[io.Int.Output()], **schema))
        return spec.function(spec.make(), x=3)

    assert run(lambda cls, x: (x + 1,)).values == (4,)
    shown = run(lambda cls, x: io.NodeOutput(x, ui={"text": ["t"]}))
    assert (shown.values, shown.ui) == ((3,), {"text": ["t"]})
    assert run(lambda cls, x: io.NodeOutput(block_execution="no")) == Blocked("no")
    nodes = {"n": {"class_type": "A", "inputs": {}}}
    expanded = run(lambda cls, x: io.NodeOutput(["n", 0], expand=nodes), enable_expand=True)
    assert (expanded.values, expanded.expand) == ((["n", 0],), nodes)


def test_an_expansion_that_the_schema_does_not_announce_is_an_error(io):
    spec = spec_of(a_class(io, lambda cls, x: io.NodeOutput(expand={}), outputs=[]))
    with pytest.raises(Exception, match="enable_expand=True"):
        spec.function(spec.make(), x=1)


def test_validators_and_fingerprints_count_where_the_pack_has_its_own(io):
    class Own(a_class(io)):
        @classmethod
        def validate_inputs(cls, x):
            return "no" if x else True

        @classmethod
        def fingerprint_inputs(cls, **given):
            return 5

    assert spec_of(a_class(io)).validate is None
    spec = spec_of(Own)
    assert (spec.validate(x=1), spec.validates, spec.fingerprint()) == ("no", ("x",), 5)


def test_repeated_ids_are_refused(io):
    with pytest.raises(ValueError, match="must be unique"):
        spec_of(a_class(io, inputs=[io.Int.Input("x"), io.Int.Input("x")]))
