"""Inputs and outputs of the V3 schema: what they take, and what the front end reads of them."""

import pytest


@pytest.fixture
def io(comfy):
    from comfy_api.latest import io

    return io


HEAD = ("x", "X", True, "a tip", False)  # id, display_name, optional, tooltip, lazy
SHOWN = {"display_name": "X", "optional": True, "tooltip": "a tip", "lazy": False}


@pytest.mark.parametrize(
    ("kind", "given", "shown"),
    [
        ("Boolean", (True, "on", "off"), {"default": True, "label_on": "on", "label_off": "off"}),
        (
            "Int",
            (1, 0, 9, 2, "fixed", "slider", True, False),
            {
                **{"default": 1, "min": 0, "max": 9, "step": 2, "control_after_generate": "fixed"},
                **{"display": "slider", "socketless": True, "forceInput": False},
            },
        ),
        (
            "Float",
            (0.5, 0.0, 1.0, 0.1, 0.01, "number"),
            {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.1, "round": 0.01, "display": "number"},
        ),
        (
            "String",
            (True, "type here", "d", True),
            {"multiline": True, "placeholder": "type here", "default": "d", "dynamicPrompts": True},
        ),
        ("Webcam", ("d", True, "WIDGET"), {"default": "d", "socketless": True, "widgetType": "WIDGET"}),
        ("Mask", ({"own": 1}, True), {"own": 1, "rawLink": True}),
    ],
)
def test_what_is_given_in_order_is_shown_by_the_front_ends_names(io, kind, given, shown):
    assert getattr(io, kind).Input(*HEAD, *given).as_dict() == SHOWN | shown


def test_choices_come_second_and_may_be_an_enum_or_fetched(io):
    combo = io.Combo.Input("c", io.FolderType, default=io.FolderType.temp, upload=io.UploadType.image)
    assert combo.as_dict() == {
        **{"optional": False, "default": "temp", "options": ["input", "output", "temp"]},
        **{"multiselect": False, "image_upload": True},
    }
    fetched = io.Combo.Input("c", remote=io.RemoteOptions("/route", True, timeout=5)).as_dict()
    assert fetched["remote"] == {
        **{"route": "/route", "refresh_button": True, "control_after_refresh": "first", "timeout": 5}
    }
    several = io.MultiCombo.Input("c", ["a", "b"], default=["a"], chip=True).as_dict()
    assert (several["multiselect"], several["multi_select"], several["chip"]) == (True, True, True)


def test_extra_options_count_before_what_all_inputs_have_and_after_what_the_kind_has(io):
    given = io.Int.Input("n", default=1, tooltip="mine", extra_dict={"default": 2, "tooltip": "other"})
    assert given.as_dict() == {"optional": False, "default": 1, "tooltip": "other"}


@pytest.mark.parametrize(("args", "more"), [((), {}), (("n",), {"nonsense": 1}), (("n",), {"id": "n"})])
def test_what_an_input_does_not_take_is_refused(io, args, more):
    with pytest.raises(TypeError):
        io.Int.Input(*args, **more)


def test_an_input_of_several_types_keeps_the_widget_that_it_is_made_of(io):
    plain = io.MultiType.Input("m", [io.Image, io.Mask], optional=True)
    assert (plain.get_io_type(), plain.as_dict()) == ("IMAGE,MASK", {"optional": True})
    widget = io.MultiType.Input(io.Float.Input("f", default=0.5, tooltip="t"), [io.Int])
    assert (widget.id, widget.get_io_type()) == ("f", "FLOAT,INT")
    assert widget.as_dict() == {"optional": False, "tooltip": "t", "default": 0.5, "widgetType": "FLOAT"}


def test_inputs_that_grow_are_numbered_or_named_and_the_first_ones_needed(io):
    grown = io.AutogrowDynamic.Input("g", io.Int.Input("n", "N"), min=1, max=2).get_dynamic()
    assert [(i.id, i.display_name, i.optional) for i in grown] == [
        ("n1_$g_ag$", "N1", False),
        ("n2_$g_ag$", "N2", True),
    ]
    named = io.Autogrow.Input("g", io.Autogrow.TemplateNames(io.Image.Input("i"), ["a", "b"], min=1))
    assert [(i.id, i.optional) for i in named.get_dynamic()] == [("g.a", False), ("g.b", True)]
    prefixed = io.Autogrow.Input("g", io.Autogrow.TemplatePrefix(io.Image.Input("i"), "p", min=0, max=2))
    assert [i.id for i in prefixed.get_dynamic()] == ["g.p0", "g.p1"]


def test_a_choice_brings_the_inputs_of_its_options_and_a_template_its_types(io):
    option = io.DynamicCombo.Option("a", [io.Int.Input("n", optional=True)])
    choice = io.DynamicCombo.Input("d", [option]).as_dict()
    assert choice["options"] == [{"key": "a", "inputs": {"required": {}, "optional": {"n": ("INT", {})}}}]
    template = io.MatchType.Template("t", [io.Image, io.Mask])
    same = {"template_id": "t", "allowed_types": "IMAGE,MASK"}
    assert io.MatchType.Input("m", template).as_dict() == {"optional": False, "template": same}
    for output in (io.MatchType.Output(template, "o"), io.MatchType.Output("o", template)):
        assert (output.id, output.as_dict()) == ("o", {"is_output_list": False, "template": same})


def test_a_packs_own_type_and_input_are_known_by_name(io):
    class Mine(io.Int.Input):
        def __init__(self, id, extra):
            super().__init__(id, default=extra)

    assert Mine("m", 3).as_dict() == {"optional": False, "default": 3}
    assert io.Custom("MINE").Input("m").get_io_type() == "MINE"
    assert io.Custom("MINE").Output().get_io_type() == "MINE"
