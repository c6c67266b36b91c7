"""Wire types whose inputs have widgets."""

from enum import Enum

from comfy_api.latest._io.wires import (
    HEAD,
    NEEDED,
    TAIL,
    ComfyTypeI,
    ComfyTypeIO,
    Output,
    WidgetInput,
    comfytype,
    plain,
)


def _takes(*options, **defaults):
    """What a widget's input takes: options of its kind between what all inputs and all widgets take."""
    rest = ("socketless", "force_input", "widget_type")
    return {"id": NEEDED, **HEAD, **dict.fromkeys((*options, *rest)), **TAIL, **defaults}


def _values(options):
    """The values of an Enum class, or the options as they are."""
    if isinstance(options, type) and issubclass(options, Enum):
        return [member.value for member in options]
    return options


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    Type = bool

    class Input(WidgetInput):
        takes = _takes("default", "label_on", "label_off")


@comfytype(io_type="INT")
class Int(ComfyTypeIO):
    Type = int

    class Input(WidgetInput):
        takes = _takes("default", "min", "max", "step", "control_after_generate", "display_mode")


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    Type = float

    class Input(WidgetInput):
        takes = _takes("default", "min", "max", "step", "round", "display_mode") | {"gradient_stops": None}


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    Type = str

    class Input(WidgetInput):
        takes = _takes("multiline", "placeholder", "default", "dynamic_prompts", multiline=False)


class _ComboInput(WidgetInput):
    """multiselect: several options may be chosen."""

    Type = str
    unshown = WidgetInput.unshown | {"upload", "remote"}
    multiselect = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.options, self.default = _values(self.options), plain(self.default)

    def as_dict(self):
        own = super().as_dict() | {"multiselect": self.multiselect}
        if self.upload is not None:
            own[plain(self.upload)] = True
        return own | ({"remote": self.remote.as_dict()} if self.remote else {})


@comfytype(io_type="COMBO")
class Combo(ComfyTypeIO):
    Type = str

    class Input(_ComboInput):
        takes = {
            **{"id": NEEDED, "options": None, **HEAD},
            **_takes("default", "control_after_generate", "upload", "image_folder", "remote"),
        }

    class Output(Output):
        takes = {"id": None, "display_name": None, "options": None, "tooltip": None, "is_output_list": False}

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.options = _values(self.options) if self.options is not None else []

        @property
        def io_type(self):
            return self.options


@comfytype(io_type="COMBO")
class MultiCombo(ComfyTypeI):
    Type = list[str]

    class Input(_ComboInput):
        takes = {
            **{"id": NEEDED, "options": NEEDED, **HEAD},
            **_takes("default", "placeholder", "chip", "control_after_generate"),
            **dict.fromkeys(("upload", "image_folder", "remote")),
        }
        multiselect = True

        def as_dict(self):
            return super().as_dict() | {"multi_select": self.multiselect}


@comfytype(io_type="WEBCAM")
class Webcam(ComfyTypeIO):
    Type = str

    class Input(WidgetInput): ...


@comfytype(io_type="COLOR")
class Color(ComfyTypeIO):
    Type = str

    class Input(WidgetInput): ...
