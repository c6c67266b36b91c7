"""ComfyUI's V3 schema: wire types with their inputs and outputs, `Schema`, and the base class of nodes.

`as_dict()` of an input is what the front end reads; keys without a value are left out. What later versions of
ComfyUI accept beside (`advanced`, `search_aliases` ...) is taken and passed on.

"""

import copy
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypedDict

import torch
from comfy_execution.graph_utils import ExecutionBlocker

from comfy_api.internal import (
    _ComfyNodeInternal,
    _NodeOutputInternal,
    classproperty,
    first_real_override,
    is_class,
    prune_dict,
)


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


class RemoteOptions:
    """Choices that the front end fetches from a route."""

    def __init__(
        self,
        route,
        refresh_button,
        control_after_refresh="first",
        timeout=None,
        max_retries=None,
        refresh=None,
    ):
        self.route = route
        self.refresh_button = refresh_button
        self.control_after_refresh = control_after_refresh
        self.timeout = timeout
        self.max_retries = max_retries
        self.refresh = refresh

    def as_dict(self):
        names = ("route", "refresh_button", "control_after_refresh", "timeout", "max_retries", "refresh")
        return prune_dict({name: getattr(self, name) for name in names})


class _StringIOType(str):
    """A wire name that suits `*` and any union that holds, or is held by, its own."""

    def __ne__(self, value):
        if self == "*" or value == "*":
            return False
        if not isinstance(value, str):
            return True
        ours, theirs = set(self.split(",")), set(value.split(","))
        return not (ours <= theirs or theirs <= ours)

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


class Input(_IO_V3):
    """An input that only a link can fill."""

    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = extra_dict if extra_dict is not None else {}
        self.rawLink = raw_link
        self.advanced = advanced

    def as_dict(self):
        own = {
            "display_name": self.display_name,
            "optional": self.optional,
            "tooltip": self.tooltip,
            "lazy": self.lazy,
            "rawLink": self.rawLink,
            "advanced": self.advanced,
        }
        return prune_dict(own) | prune_dict(self.extra_dict)

    def get_io_type(self):
        return _StringIOType(self.io_type)


class WidgetInput(Input):
    """An input with a widget."""

    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        socketless=None,
        widget_type=None,
        force_input=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
        self.default = default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input

    def as_dict(self):
        return super().as_dict() | prune_dict(
            {
                "default": self.default,
                "socketless": self.socketless,
                "widgetType": self.widget_type,
                "forceInput": self.force_input,
            }
        )

    def get_io_type(self):
        return self.widget_type if self.widget_type is not None else super().get_io_type()


class Output(_IO_V3):
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id = id
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    def as_dict(self):
        names = ("display_name", "tooltip", "is_output_list")
        return prune_dict({name: getattr(self, name) for name in names})

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


def _values(options):
    """The values of an Enum class, or the options as they are."""
    if isinstance(options, type) and issubclass(options, Enum):
        return [member.value for member in options]
    return options


def _plain(value):
    return value.value if isinstance(value, Enum) else value


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    Type = bool

    class Input(WidgetInput):
        def __init__(
            self,
            id,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            default=None,
            label_on=None,
            label_off=None,
            socketless=None,
            force_input=None,
            **more,
        ):
            more = {"socketless": socketless, "force_input": force_input, **more}
            super().__init__(id, display_name, optional, tooltip, lazy, default, **more)
            self.label_on = label_on
            self.label_off = label_off

        def as_dict(self):
            labels = {"label_on": self.label_on, "label_off": self.label_off}
            return super().as_dict() | prune_dict(labels)


class _Number(WidgetInput):
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        min=None,
        max=None,
        step=None,
        display_mode=None,
        **more,
    ):
        super().__init__(id, display_name, optional, tooltip, lazy, default, **more)
        self.min = min
        self.max = max
        self.step = step
        self.display_mode = display_mode

    def _limits(self):
        return {"min": self.min, "max": self.max, "step": self.step}


@comfytype(io_type="INT")
class Int(ComfyTypeIO):
    Type = int

    class Input(_Number):
        def __init__(
            self,
            id,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            default=None,
            min=None,
            max=None,
            step=None,
            control_after_generate=None,
            display_mode=None,
            socketless=None,
            force_input=None,
            **more,
        ):
            more = {"socketless": socketless, "force_input": force_input, **more}
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, min, max, step, display_mode, **more
            )
            self.control_after_generate = control_after_generate

        def as_dict(self):
            more = {
                "control_after_generate": _plain(self.control_after_generate),
                "display": _plain(self.display_mode),
            }
            return super().as_dict() | prune_dict(self._limits() | more)


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    Type = float

    class Input(_Number):
        def __init__(
            self,
            id,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            default=None,
            min=None,
            max=None,
            step=None,
            round=None,
            display_mode=None,
            socketless=None,
            force_input=None,
            gradient_stops=None,
            **more,
        ):
            more = {"socketless": socketless, "force_input": force_input, **more}
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, min, max, step, display_mode, **more
            )
            self.round = round
            self.gradient_stops = gradient_stops

        def as_dict(self):
            more = {
                "round": self.round,
                "display": _plain(self.display_mode),
                "gradient_stops": self.gradient_stops,
            }
            return super().as_dict() | prune_dict(self._limits() | more)


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            multiline=False,
            placeholder=None,
            default=None,
            dynamic_prompts=None,
            socketless=None,
            force_input=None,
            **more,
        ):
            more = {"socketless": socketless, "force_input": force_input, **more}
            super().__init__(id, display_name, optional, tooltip, lazy, default, **more)
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def as_dict(self):
            return super().as_dict() | prune_dict(
                {
                    "multiline": self.multiline,
                    "placeholder": self.placeholder,
                    "dynamicPrompts": self.dynamic_prompts,
                }
            )


class _ComboInput(WidgetInput):
    Type = str

    def __init__(
        self,
        id,
        options=None,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        control_after_generate=None,
        upload=None,
        image_folder=None,
        remote=None,
        socketless=None,
        **more,
    ):
        super().__init__(
            id, display_name, optional, tooltip, lazy, _plain(default), socketless=socketless, **more
        )
        self.multiselect = False
        self.options = _values(options)
        self.control_after_generate = control_after_generate
        self.upload = upload
        self.image_folder = image_folder
        self.remote = remote

    def as_dict(self):
        own = {
            "multiselect": self.multiselect,
            "options": self.options,
            "control_after_generate": _plain(self.control_after_generate),
            **({} if self.upload is None else {_plain(self.upload): True}),
            "image_folder": _plain(self.image_folder),
            "remote": self.remote.as_dict() if self.remote else None,
        }
        return super().as_dict() | prune_dict(own)


@comfytype(io_type="COMBO")
class Combo(ComfyTypeIO):
    Type = str

    class Input(_ComboInput): ...

    class Output(Output):
        def __init__(self, id=None, display_name=None, options=None, tooltip=None, is_output_list=False):
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = _values(options) if options is not None else []

        @property
        def io_type(self):
            return self.options


@comfytype(io_type="COMBO")
class MultiCombo(ComfyTypeI):
    Type = list[str]

    class Input(_ComboInput):
        def __init__(
            self,
            id,
            options,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            default=None,
            placeholder=None,
            chip=None,
            control_after_generate=None,
            socketless=None,
            **more,
        ):
            more = {"socketless": socketless, **more}
            super().__init__(
                id, options, display_name, optional, tooltip, lazy, default, control_after_generate, **more
            )
            self.multiselect = True
            self.placeholder = placeholder
            self.chip = chip

        def as_dict(self):
            own = {"multi_select": self.multiselect, "placeholder": self.placeholder, "chip": self.chip}
            return super().as_dict() | prune_dict(own)


@comfytype(io_type="WEBCAM")
class Webcam(ComfyTypeIO):
    Type = str

    class Input(WidgetInput): ...


@comfytype(io_type="COLOR")
class Color(ComfyTypeIO):
    Type = str

    class Input(WidgetInput): ...


@comfytype(io_type="LATENT")
class Latent(ComfyTypeIO):
    class LatentDict(TypedDict, total=False):
        samples: torch.Tensor
        noise_mask: torch.Tensor
        batch_index: list[int]
        type: str

    Type = LatentDict


@comfytype(io_type="CONDITIONING")
class Conditioning(ComfyTypeIO):
    class PooledDict(TypedDict, total=False):
        pooled_output: torch.Tensor

    CondList = list[tuple[torch.Tensor, dict]]
    Type = CondList


@comfytype(io_type="AUDIO")
class Audio(ComfyTypeIO):
    class AudioDict(TypedDict):
        waveform: torch.Tensor
        sample_rate: int

    Type = AudioDict


def _wire(name, io_type, type_=Any):
    return comfytype(io_type)(type(name, (ComfyTypeIO,), {"Type": type_, "__module__": __name__}))


Image = _wire("Image", "IMAGE", torch.Tensor)
WanCameraEmbedding = _wire("WanCameraEmbedding", "WAN_CAMERA_EMBEDDING", torch.Tensor)
Mask = _wire("Mask", "MASK", torch.Tensor)
Sampler = _wire("Sampler", "SAMPLER")
Sigmas = _wire("Sigmas", "SIGMAS", torch.Tensor)
Noise = _wire("Noise", "NOISE", torch.Tensor)
Guider = _wire("Guider", "GUIDER")
Clip = _wire("Clip", "CLIP")
ControlNet = _wire("ControlNet", "CONTROL_NET")
Vae = _wire("Vae", "VAE")
Model = _wire("Model", "MODEL")
ClipVision = _wire("ClipVision", "CLIP_VISION")
ClipVisionOutput = _wire("ClipVisionOutput", "CLIP_VISION_OUTPUT")
StyleModel = _wire("StyleModel", "STYLE_MODEL")
Gligen = _wire("Gligen", "GLIGEN")
UpscaleModel = _wire("UpscaleModel", "UPSCALE_MODEL")
LatentUpscaleModel = _wire("LatentUpscaleModel", "LATENT_UPSCALE_MODEL")
Video = _wire("Video", "VIDEO")
SVG = _wire("SVG", "SVG")
LoraModel = _wire("LoraModel", "LORA_MODEL", dict[str, torch.Tensor])
LossMap = _wire("LossMap", "LOSS_MAP")
Voxel = _wire("Voxel", "VOXEL")
Mesh = _wire("Mesh", "MESH")
Hooks = _wire("Hooks", "HOOKS")
HookKeyframes = _wire("HookKeyframes", "HOOK_KEYFRAMES")
TimestepsRange = _wire("TimestepsRange", "TIMESTEPS_RANGE", tuple[int, int])
LatentOperation = _wire("LatentOperation", "LATENT_OPERATION")
FlowControl = _wire("FlowControl", "FLOW_CONTROL", tuple[str, Any])
Accumulation = _wire("Accumulation", "ACCUMULATION")
Load3DCamera = _wire("Load3DCamera", "LOAD3D_CAMERA")
Load3D = _wire("Load3D", "LOAD_3D")
Load3DAnimation = _wire("Load3DAnimation", "LOAD_3D_ANIMATION")
Photomaker = _wire("Photomaker", "PHOTOMAKER")
Point = _wire("Point", "POINT")
FaceAnalysis = _wire("FaceAnalysis", "FACE_ANALYSIS")
BBOX = _wire("BBOX", "BBOX")
BoundingBox = _wire("BoundingBox", "BOUNDING_BOX")
SEGS = _wire("SEGS", "SEGS")
Tracks = _wire("Tracks", "TRACKS")
AnyType = _wire("AnyType", "*")
MODEL_PATCH = _wire("MODEL_PATCH", "MODEL_PATCH")
ModelPatch = MODEL_PATCH
AudioEncoder = _wire("AudioEncoder", "AUDIO_ENCODER")
AudioEncoderOutput = _wire("AudioEncoderOutput", "AUDIO_ENCODER_OUTPUT")


@comfytype(io_type="COMFY_MULTITYPED_V3")
class MultiType(ComfyTypeI):
    Type = Any

    class Input(Input):
        """An input of several types; `id` may be a widget's input, whose widget it then has."""

        def __init__(
            self,
            id,
            types,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            extra_dict=None,
            **more,
        ):
            self.input_override = None
            if isinstance(id, Input):
                given = self.input_override = copy.copy(id)
                optional = given.optional or optional
                tooltip = given.tooltip if given.tooltip is not None else tooltip
                display_name = given.display_name if given.display_name is not None else display_name
                lazy = given.lazy if given.lazy is not None else lazy
                id = given.id
                if isinstance(given, WidgetInput):
                    given.widget_type = given.get_io_type()
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, **more)
            self._io_types = types

        @property
        def io_types(self):
            return [t if is_class(t) else type(t) for t in self._io_types]

        def get_io_type(self):
            names = [t.io_type for t in self.io_types]
            if self.input_override is not None:
                names.insert(0, self.input_override.get_io_type())
            return ",".join(dict.fromkeys(names))

        def as_dict(self):
            own = super().as_dict()
            return own if self.input_override is None else self.input_override.as_dict() | own


class DynamicInput(Input, ABC):
    """An input that stands for several."""

    @abstractmethod
    def get_dynamic(self): ...


class DynamicOutput(Output, ABC):
    """An output whose type depends on the inputs."""

    @abstractmethod
    def get_dynamic(self): ...


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
        def __init__(
            self,
            id,
            template_input,
            min=1,
            max=None,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            extra_dict=None,
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.template_input = template_input
            self.min = min
            self.max = max

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
        def __init__(
            self, id, template, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.template = template

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
        def __init__(
            self, id, options, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.options = options

        def get_dynamic(self):
            return [self]

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
        def __init__(
            self,
            id,
            template,
            display_name=None,
            optional=False,
            tooltip=None,
            lazy=None,
            extra_dict=None,
            **more,
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, **more)
            self.template = template

        def get_dynamic(self):
            return [self]

        def as_dict(self):
            return super().as_dict() | {"template": self.template.as_dict()}

    class Output(DynamicOutput):
        def __init__(self, template, id=None, display_name=None, tooltip=None, is_output_list=False):
            if isinstance(template, str):  # 0.3.64 takes the id first
                template, id = id, template
            super().__init__(id, display_name, tooltip, is_output_list)
            self.template = template

        def get_dynamic(self):
            return [self]

        def as_dict(self):
            return super().as_dict() | {"template": self.template.as_dict()}


class Hidden(str, Enum):
    """What the server fills in."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


class HiddenHolder:
    """A node's hidden inputs, as `cls.hidden`; None for those it did not ask for."""

    def __init__(
        self,
        unique_id=None,
        prompt=None,
        extra_pnginfo=None,
        dynprompt=None,
        auth_token_comfy_org=None,
        api_key_comfy_org=None,
        **kwargs,
    ):
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo
        self.dynprompt = dynprompt
        self.auth_token_comfy_org = auth_token_comfy_org
        self.api_key_comfy_org = api_key_comfy_org

    def __getattr__(self, key):
        if key.startswith("__"):
            raise AttributeError(key)
        return None

    @classmethod
    def from_dict(cls, d):
        """From values by `Hidden`."""
        given = {_plain(kind): value for kind, value in (d or {}).items()}
        return cls(**{hidden.name: given.get(hidden.value) for hidden in Hidden})


@dataclass
class NodeInfoV1:
    """A class as /object_info has it."""

    input: dict = None
    input_order: dict = None
    output: list = None
    output_is_list: list = None
    output_name: list = None
    output_tooltips: list = None
    name: str = None
    display_name: str = None
    description: str = None
    python_module: Any = None
    category: str = None
    output_node: bool = None
    deprecated: bool = None
    experimental: bool = None
    api_node: bool = None


@dataclass
class NodeInfoV3:
    """A class by its own schema."""

    input: dict = None
    output: dict = None
    hidden: list = None
    name: str = None
    display_name: str = None
    description: str = None
    python_module: Any = None
    category: str = None
    output_node: bool = None
    deprecated: bool = None
    experimental: bool = None
    api_node: bool = None


@dataclass
class Schema:
    """What `define_schema` returns."""

    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = None
    outputs: list = None
    hidden: list = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False
    search_aliases: list = None
    essentials_category: str = None
    price_badge: Any = None
    is_dev_only: bool = False
    accept_all_inputs: bool = False
    has_intermediate_output: bool = False

    def validate(self):
        """Raises: ValueError where ids repeat."""
        inputs = Counter(i.id for i in self.inputs or ())
        outputs = Counter(o.id for o in self.outputs or ())
        issues = []
        for kind, ids in (("Input", inputs), ("Output", outputs)):
            repeated = [id for id, count in ids.items() if count > 1]
            if repeated:
                issues.append(f"{kind} ids must be unique, but {repeated} are not.")
        if issues:
            raise ValueError("\n".join(issues))

    def _ask(self, *wanted):
        self.hidden = list(self.hidden or ())
        self.hidden += [hidden for hidden in wanted if hidden not in self.hidden]

    def finalize(self):
        """Add the hidden inputs that the kind of node needs, and ids to outputs that have none."""
        if self.is_api_node:
            self._ask(Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org)
        if self.is_output_node:
            self._ask(Hidden.prompt, Hidden.extra_pnginfo)
        for i, output in enumerate(self.outputs or ()):
            if output.id is None:
                output.id = f"_{i}_{output.io_type}_"

    def get_v1_info(self, cls):
        """As /object_info has it."""
        inputs = {"required": {}}
        for i in self.inputs or ():
            for one in i.get_dynamic() if isinstance(i, DynamicInput) else [i]:
                add_to_dict_v1(one, inputs)
        for hidden in self.hidden or ():
            inputs.setdefault("hidden", {})[hidden.name] = (hidden.value,)
        outputs = self.outputs or []
        return NodeInfoV1(
            input=inputs,
            input_order={section: list(listed) for section, listed in inputs.items()},
            output=[o.io_type for o in outputs],
            output_is_list=[o.is_output_list for o in outputs],
            output_name=[o.display_name or o.io_type for o in outputs],
            output_tooltips=[o.tooltip or None for o in outputs],
            **self._facts(cls),
        )

    def get_v3_info(self, cls):
        """By the schema's own names."""
        inputs, outputs = {}, {}
        for i in self.inputs or ():
            add_to_dict_v3(i, inputs)
        for o in self.outputs or ():
            add_to_dict_v3(o, outputs)
        hidden = [h.value for h in self.hidden or ()]
        return NodeInfoV3(input=inputs, output=outputs, hidden=hidden, **self._facts(cls))

    def _facts(self, cls):
        return {
            "name": self.node_id,
            "display_name": self.display_name,
            "category": self.category,
            "description": self.description,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": self.is_api_node,
            "python_module": getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"),
        }


def add_to_dict_v1(i, input):
    """Put an input into the section it belongs to."""
    options = i.as_dict()
    options.pop("optional", None)
    input.setdefault("optional" if i.optional else "required", {})[i.id] = (i.get_io_type(), options)


def add_to_dict_v3(io, d):
    d[io.id] = (io.get_io_type(), io.as_dict())


def _from_schema(read):
    """A class property of classic nodes, read from the schema."""
    return classproperty(lambda cls: read(cls.SCHEMA or cls.GET_SCHEMA()))


class _ComfyNodeBaseInternal(_ComfyNodeInternal):
    """What every V3 node has. Its classic attributes follow from its schema."""

    RELATIVE_PYTHON_MODULE = None
    SCHEMA = None
    resources = None
    hidden = None

    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs):
        return [name for name in kwargs if kwargs[name] is None]

    def __init__(self):
        self.local_resources = None
        self.__class__.VALIDATE_CLASS()

    @classmethod
    def GET_BASE_CLASS(cls):
        return _ComfyNodeBaseInternal

    @classmethod
    def VALIDATE_CLASS(cls):
        """Raises: Exception where the class lacks a method of its own."""
        for needed in ("define_schema", "execute"):
            if first_real_override(cls, needed) is None:
                raise Exception(f"No {needed} function was defined for node class {cls.__name__}.")

    @classproperty
    def FUNCTION(cls):
        return (
            "EXECUTE_NORMALIZED_ASYNC" if inspect.iscoroutinefunction(cls.execute) else "EXECUTE_NORMALIZED"
        )

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args, **kwargs):
        """`execute`, with whatever it returns as a NodeOutput."""
        return cls._normalized(cls.execute(*args, **kwargs))

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args, **kwargs):
        return cls._normalized(await cls.execute(*args, **kwargs))

    @classmethod
    def _normalized(cls, returned):
        output = _output_of(returned)
        if output.expand is not None and not (cls.SCHEMA or cls.GET_SCHEMA()).enable_expand:
            raise Exception(
                f"Node {cls.__name__} returned `expand`, but its schema doesn't say enable_expand=True."
            )
        return output

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden_inputs):
        """A class like this one that holds the hidden inputs of one call."""
        clone = type(f"{cls.__name__}Clone", (cls,), {"__module__": cls.__module__})
        clone.hidden = HiddenHolder.from_dict(hidden_inputs)
        return clone

    @classmethod
    def GET_NODE_INFO_V1(cls):
        return asdict(cls.GET_SCHEMA().get_v1_info(cls))

    @classmethod
    def GET_NODE_INFO_V3(cls):
        return asdict(cls.GET_SCHEMA().get_v3_info(cls))

    DESCRIPTION = _from_schema(lambda s: s.description)
    CATEGORY = _from_schema(lambda s: s.category)
    EXPERIMENTAL = _from_schema(lambda s: s.is_experimental)
    DEPRECATED = _from_schema(lambda s: s.is_deprecated)
    API_NODE = _from_schema(lambda s: s.is_api_node)
    OUTPUT_NODE = _from_schema(lambda s: s.is_output_node)
    INPUT_IS_LIST = _from_schema(lambda s: s.is_input_list)
    NOT_IDEMPOTENT = _from_schema(lambda s: s.not_idempotent)
    OUTPUT_IS_LIST = _from_schema(lambda s: [o.is_output_list for o in s.outputs or ()])
    RETURN_TYPES = _from_schema(lambda s: [o.io_type for o in s.outputs or ()])
    RETURN_NAMES = _from_schema(lambda s: [o.display_name or o.io_type for o in s.outputs or ()])
    OUTPUT_TOOLTIPS = _from_schema(lambda s: [o.tooltip or None for o in s.outputs or ()])

    @classmethod
    def INPUT_TYPES(cls, include_hidden=True, return_schema=False):
        """As a classic class has it."""
        schema = cls.FINALIZE_SCHEMA()
        inputs = schema.get_v1_info(cls).input
        if not include_hidden:
            inputs.pop("hidden", None)
        return (inputs, schema) if return_schema else inputs

    @classmethod
    def FINALIZE_SCHEMA(cls):
        schema = cls.define_schema()
        schema.finalize()
        return schema

    @classmethod
    def GET_SCHEMA(cls):
        """The schema, checked. Raises: Exception or ValueError for what is wrong with it."""
        cls.VALIDATE_CLASS()
        schema = cls.FINALIZE_SCHEMA()
        schema.validate()
        cls.SCHEMA = schema
        return schema


class ComfyNode(_ComfyNodeBaseInternal):
    """Base class of V3 nodes."""

    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs):
        return [name for name in kwargs if kwargs[name] is None]

    @classmethod
    def GET_BASE_CLASS(cls):
        return ComfyNode


class NodeOutput(_NodeOutputInternal):
    """What a V3 node returns."""

    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self):
        return self.args if len(self.args) > 0 else None

    @classmethod
    def from_dict(cls, data):
        """From what a classic node returns."""
        result = data.get("result", ())
        if isinstance(result, ExecutionBlocker):
            return cls(block_execution=result.message)
        return cls(*result, ui=data.get("ui"), expand=data.get("expand"))

    def __getitem__(self, index):
        return self.args[index]


def _output_of(returned):
    match returned:
        case None:
            return NodeOutput()
        case NodeOutput():
            return returned
        case tuple():
            return NodeOutput(*returned)
        case dict():
            return NodeOutput.from_dict(returned)
        case ExecutionBlocker():
            return NodeOutput(block_execution=returned.message)
    raise Exception(f"Invalid return type from node: {type(returned)}")


class _UIOutput(ABC):
    """Something that clients show."""

    def __init__(self):
        pass

    @abstractmethod
    def as_dict(self): ...
