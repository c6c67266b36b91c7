"""Wire types, their inputs and their outputs. `as_dict()` of an input is what the front end reads."""

from abc import ABC
from enum import Enum
from inspect import Parameter, Signature
from typing import Any

from comfy.comfy_types.node_typing import differs

from comfy_api.internal import prune_dict

FRONT_END_NAMES = {
    "widget_type": "widgetType",
    "force_input": "forceInput",
    "dynamic_prompts": "dynamicPrompts",
    "display_mode": "display",
}
# what inputs take: a name without a default, what comes first, what comes last
NEEDED = Parameter.empty
HEAD = {"display_name": None, "optional": False, "tooltip": None, "lazy": None}
TAIL = {"extra_dict": None, "raw_link": None, "advanced": None}


class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(str, Enum):
    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


def plain(value):
    """The value of an Enum's member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


class Declared:
    """Something whose constructor takes what `takes` lists: names in order, with their defaults."""

    takes: dict = {}

    def __init_subclass__(cls):
        kind = Parameter.POSITIONAL_OR_KEYWORD
        cls.__signature__ = Signature([Parameter(n, kind, default=d) for n, d in cls.takes.items()])

    def __init__(self, *args, **kwargs):
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        for name, value in given.arguments.items():
            setattr(self, name, value)

    def shown(self, names):
        """Those of its values that are set, by the names that the front end knows them by."""
        return prune_dict({FRONT_END_NAMES.get(name, name): plain(getattr(self, name)) for name in names})


class RemoteOptions(Declared):
    """Choices that the front end fetches from a route."""

    takes = {
        **{"route": NEEDED, "refresh_button": NEEDED, "control_after_refresh": "first"},
        **dict.fromkeys(("timeout", "max_retries", "refresh")),
    }

    def as_dict(self):
        return self.shown(self.takes)


class _StringIOType(str):
    """A wire name that suits `*` and any union that holds, or is held by, its own."""

    __ne__ = differs
    __hash__ = str.__hash__


class _ComfyType(ABC):
    Type = Any
    io_type = None


class _IO_V3:
    """An input or output; `Parent` is the wire type it belongs to."""

    Parent = None

    @property
    def io_type(self):
        return self.Parent.io_type

    @property
    def Type(self):
        return self.Parent.Type


class Input(Declared, _IO_V3):
    """An input that only a link can fill. unshown: what it takes and the front end does not read as it is."""

    takes = {"id": NEEDED, **HEAD, **TAIL}
    unshown = frozenset({"id", "extra_dict", "raw_link"})

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra_dict = self.extra_dict if self.extra_dict is not None else {}
        self.rawLink = self.raw_link

    def as_dict(self):
        """`extra_dict` counts before what every input has, and after what its own kind has."""
        names = [name for name in self.takes if name not in self.unshown]
        common = self.shown(name for name in names if name in Input.takes)
        own = self.shown(name for name in names if name not in Input.takes)
        return common | prune_dict({"rawLink": self.rawLink}) | prune_dict(self.extra_dict) | own

    def get_io_type(self):
        return _StringIOType(self.io_type)


class WidgetInput(Input):
    """An input with a widget."""

    takes = {
        **{"id": NEEDED, **HEAD, "default": None},
        **dict.fromkeys(("socketless", "widget_type", "force_input")),
        **TAIL,
    }

    def get_io_type(self):
        return self.widget_type if self.widget_type is not None else super().get_io_type()


class Output(Declared, _IO_V3):
    takes = {"id": None, "display_name": None, "tooltip": None, "is_output_list": False}

    def as_dict(self):
        return self.shown(("display_name", "tooltip", "is_output_list"))

    def get_io_type(self):
        return self.io_type


class ComfyTypeI(_ComfyType):
    """A wire type that is only an input."""

    class Input(Input): ...


class ComfyTypeIO(ComfyTypeI):
    """A wire type with input and output."""

    class Output(Output): ...


def comfytype(io_type, **kwargs):
    """Make a class a wire type of that name, with an Input and an Output of its own."""

    def make(cls):
        if not issubclass(cls, _ComfyType):
            kept = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
            cls = type(cls.__name__, (cls, ComfyTypeIO), kept)
        cls.io_type = _StringIOType(io_type)
        for name in ("Input", "Output"):
            inherited = getattr(cls, name, None)
            if inherited is not None:
                own = type(name, (inherited,), {"__module__": cls.__module__, "__doc__": inherited.__doc__})
                own.Parent = cls
                setattr(cls, name, own)
        return cls

    return make


def Custom(io_type):
    """A wire type by its name alone."""
    return comfytype(io_type)(type("CustomComfyType", (ComfyTypeIO,), {}))


def add_to_dict_v1(i, input):
    """Put an input into the section it belongs to."""
    options = i.as_dict()
    options.pop("optional", None)
    input.setdefault("optional" if i.optional else "required", {})[i.id] = (i.get_io_type(), options)


def add_to_dict_v3(io, d):
    d[io.id] = (io.get_io_type(), io.as_dict())
