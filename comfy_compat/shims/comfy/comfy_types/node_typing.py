"""ComfyUI's `comfy.comfy_types.node_typing`: the wire names as an enum, and bases of classic nodes."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, Literal, TypedDict


class StrEnum(str, Enum):
    """A string enum whose text is its value."""

    def __str__(self):
        return self.value


_NAMES = """
    STRING IMAGE MASK LATENT BOOLEAN INT FLOAT COMBO CONDITIONING SAMPLER SIGMAS GUIDER NOISE CLIP CONTROL_NET
    VAE MODEL LORA_MODEL LOSS_MAP CLIP_VISION CLIP_VISION_OUTPUT STYLE_MODEL GLIGEN UPSCALE_MODEL AUDIO WEBCAM
    POINT FACE_ANALYSIS BBOX SEGS VIDEO
"""


def differs(wire, other):
    """Whether neither of two wire names is the wildcard, and neither's members are all among the other's."""
    if "*" in (str(wire), other):
        return False
    if not isinstance(other, str):
        return True
    ours, theirs = (set(name.split(",")) for name in (wire, other))
    return not (ours <= theirs or theirs <= ours)


class _Union(StrEnum):
    __ne__ = differs


IO = _Union(
    "IO",
    {name: name for name in _NAMES.split()}
    | {"ANY": "*", "NUMBER": "FLOAT,INT", "PRIMITIVE": "STRING,FLOAT,INT,BOOLEAN"},
)


class RemoteInputOptions(TypedDict, total=False):
    route: str
    refresh_button: bool
    control_after_refresh: Literal["first", "last"]
    timeout: int
    max_retries: int
    refresh: int


class MultiSelectOptions(TypedDict, total=False):
    placeholder: str
    chip: bool


class InputTypeOptions(TypedDict, total=False):
    default: Any
    defaultInput: bool
    forceInput: bool
    lazy: bool
    rawLink: bool
    tooltip: str
    socketless: bool
    widgetType: str
    min: float
    max: float
    step: float
    round: float
    label_on: str
    label_off: str
    multiline: bool
    placeholder: str
    dynamicPrompts: bool
    image_upload: bool
    image_folder: Literal["input", "output", "temp"]
    remote: RemoteInputOptions
    control_after_generate: bool
    options: list
    multi_select: MultiSelectOptions


class HiddenInputTypeDict(TypedDict, total=False):
    node_id: Literal["UNIQUE_ID"]
    unique_id: Literal["UNIQUE_ID"]
    prompt: Literal["PROMPT"]
    extra_pnginfo: Literal["EXTRA_PNGINFO"]
    dynprompt: Literal["DYNPROMPT"]


class InputTypeDict(TypedDict, total=False):
    required: dict[str, tuple]
    optional: dict[str, tuple]
    hidden: HiddenInputTypeDict


class ComfyNodeABC(ABC):
    """What a classic node class consists of."""

    DESCRIPTION: str
    CATEGORY: str
    EXPERIMENTAL: bool
    DEPRECATED: bool
    API_NODE: bool | None
    OUTPUT_NODE: bool
    INPUT_IS_LIST: bool
    OUTPUT_IS_LIST: tuple[bool, ...]
    RETURN_TYPES: tuple
    RETURN_NAMES: tuple[str, ...]
    OUTPUT_TOOLTIPS: tuple[str, ...]
    FUNCTION: str

    @classmethod
    @abstractmethod
    def INPUT_TYPES(cls) -> InputTypeDict:
        """The node's inputs by section."""
        return {"required": {}}


class CheckLazyMixin:
    """Asks for every lazy input."""

    def check_lazy_status(self, **kwargs) -> list[str]:
        missing = [name for name in kwargs if kwargs[name] is None]
        return missing or [name for name in kwargs if kwargs[name] == (None,)]


class FileLocator(TypedDict):
    """A file as `ui` names it."""

    filename: str
    subfolder: str
    type: Literal["input", "output", "temp"]
