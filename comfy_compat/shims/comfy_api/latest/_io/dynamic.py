"""Inputs of several types, inputs that stand for several, and outputs that follow them."""

import copy
from typing import Any

from comfy_api.internal import is_class
from comfy_api.latest._io.types import AnyType
from comfy_api.latest._io.wires import (
    HEAD,
    NEEDED,
    TAIL,
    ComfyTypeI,
    ComfyTypeIO,
    Input,
    Output,
    WidgetInput,
    add_to_dict_v1,
    comfytype,
)


@comfytype(io_type="COMFY_MULTITYPED_V3")
class MultiType(ComfyTypeI):
    Type = Any

    class Input(Input):
        """An input of several types; `id` may be a widget's input, whose widget it then has."""

        takes = {"id": NEEDED, "types": NEEDED, **HEAD, **TAIL}
        unshown = Input.unshown | {"types"}

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.input_override = None
            if isinstance(self.id, Input):
                self._follow(copy.copy(self.id))

        def _follow(self, given):
            """Go by the name of a widget's input, and be shown as it is where nothing else was said of it."""
            self.input_override, self.id = given, given.id
            self.optional = given.optional or self.optional
            for name in ("tooltip", "display_name", "lazy"):
                if getattr(given, name) is not None:
                    setattr(self, name, getattr(given, name))
            if isinstance(given, WidgetInput):
                given.widget_type = given.get_io_type()

        @property
        def io_types(self):
            return [t if is_class(t) else type(t) for t in self.types]

        def get_io_type(self):
            names = [t.io_type for t in self.io_types]
            if self.input_override is not None:
                names.insert(0, self.input_override.get_io_type())
            return ",".join(dict.fromkeys(names))

        def as_dict(self):
            own = super().as_dict()
            return own if self.input_override is None else self.input_override.as_dict() | own


class DynamicInput(Input):
    """An input that may stand for several."""

    unshown = Input.unshown | {"template", "options"}

    def get_dynamic(self):
        return [self]


class DynamicOutput(Output):
    """An output whose type depends on the inputs."""

    def get_dynamic(self):
        return [self]


def _grown(template, name, number, optional):
    """One of the inputs that grow from a template."""
    made = copy.copy(template)
    made.id = name
    if made.display_name is not None:
        made.display_name = f"{made.display_name}{number}"
    made.optional = optional or made.optional
    if isinstance(made, WidgetInput):
        made.force_input = True
    return made


@comfytype(io_type="COMFY_AUTOGROW_V3")
class AutogrowDynamic(ComfyTypeI):
    Type = list[Any]

    class Input(DynamicInput):
        takes = {"id": NEEDED, "template_input": NEEDED, "min": 1, "max": None, **HEAD, **TAIL}
        unshown = DynamicInput.unshown | {"template_input", "min", "max"}

        def get_dynamic(self):
            template = self.template_input
            return [
                _grown(template, f"{template.id}{n}_${self.id}_ag$", n, self.optional or n > self.min)
                for n in range(1, max(self.min, self.max or 0) + 1)
            ]


@comfytype(io_type="COMFY_AUTOGROW_V3")
class Autogrow(ComfyTypeI):
    """Inputs by a template: a prefix and a number each, or given names."""

    Type = dict[str, Any]

    class TemplatePrefix:
        def __init__(self, input, prefix, min=1, max=10):
            self.input, self.min = input, min
            self.names = [f"{prefix}{n}" for n in range(max)]

    class TemplateNames:
        def __init__(self, input, names, min=1):
            self.input, self.min = input, min
            self.names = list(names)

    class Input(DynamicInput):
        takes = {"id": NEEDED, "template": NEEDED, **HEAD, **TAIL}

        def get_dynamic(self):
            template = self.template
            return [
                _grown(template.input, f"{self.id}.{name}", n, self.optional or n >= template.min)
                for n, name in enumerate(template.names)
            ]


@comfytype(io_type="COMFY_DYNAMICCOMBO_V3")
class DynamicCombo(ComfyTypeI):
    """A choice, each of whose options brings inputs of its own."""

    Type = dict[str, Any]

    class Option:
        def __init__(self, key, inputs):
            self.key, self.inputs = key, inputs

        def as_dict(self):
            made = {"required": {}}
            for i in self.inputs:
                add_to_dict_v1(i, made)
            return {"key": self.key, "inputs": made}

    class Input(DynamicInput):
        takes = {"id": NEEDED, "options": NEEDED, **HEAD, **TAIL}

        def as_dict(self):
            return super().as_dict() | {"options": [option.as_dict() for option in self.options]}


@comfytype(io_type="COMFY_MATCHTYPE_V3")
class MatchType(ComfyTypeIO):
    """Inputs and outputs of one template have one type, whichever it is."""

    class Template:
        def __init__(self, template_id, allowed_types=None):
            self.template_id = template_id
            given = AnyType if allowed_types is None else allowed_types
            self.allowed_types = list(given) if isinstance(given, (list, tuple)) else [given]

        def as_dict(self):
            return {
                "template_id": self.template_id,
                "allowed_types": ",".join(t.io_type for t in self.allowed_types),
            }

    class Input(DynamicInput):
        takes = {"id": NEEDED, "template": NEEDED, **HEAD, **TAIL}

        def as_dict(self):
            return super().as_dict() | {"template": self.template.as_dict()}

    class Output(DynamicOutput):
        takes = {"template": NEEDED, **Output.takes}

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if isinstance(self.template, str):  # 0.3.64 takes the id first
                self.template, self.id = self.id, self.template

        def as_dict(self):
            return super().as_dict() | {"template": self.template.as_dict()}
