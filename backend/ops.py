"""Operations: what is left of a workflow once it is lowered. Frozen dataclasses, picklable, no behaviour.

An op's fields are plain values, references, or `Lazy` values: the value itself, an op that makes it, or a
`Ref` to an op of the live graph. `graph/lower.py` turns nested ops into `Ref`s, so that what is scheduled,
hashed and sent to a worker is flat.
"""

from collections.abc import Hashable, Mapping
from dataclasses import field, fields
from functools import cache
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

from backend.components import Contents, File
from backend.guiders import (
    BetaSchedule,
    ForeignNoise,
    ForeignSampler,
    GivenNoise,
    Guider,
    Noise,
    Sampler,
    Schedule,
    TurboSchedule,
)
from backend.references import Clip, ClipVision, Model, Ref, StyleModel, UpscaleModel, Vae
from backend.types import (
    ClientId,
    ClipVisionOutput,
    Conditioning,
    Image,
    JobId,
    Latent,
    Mask,
    NodeId,
    OpKey,
    Sigmas,
)
from backend.values import frozen

T_co = TypeVar("T_co", covariant=True)
OpKind = Literal["host", "step", "whole"]
_NO_JOB = JobId("")


@frozen
class Op(Generic[T_co]):
    """Work that yields a T. `kind`: run by the host's threads, by a step loop, or whole on a device."""

    kind: ClassVar[OpKind] = "whole"
    version: ClassVar[int] = 1  # part of the content key: raise it when results change
    outputs: ClassVar[int] = 1


@frozen
class Part(Op[T_co]):
    """One output of an op that has several."""

    op: Op[object]
    slot: int


Lazy: TypeAlias = T_co | Op[T_co] | Ref


# A prompt's tokens: chunks, marks included, of an id or an embedding's vector each, and its weight
Chunks: TypeAlias = tuple[tuple[tuple[object, float], ...], ...]


@frozen
class EncodeText(Op[Conditioning]):
    """embeddings: the files that the text names, so that an exchanged file makes another key; texts: those of
    encoders that have their own, by the encoder's name; images: what an encoder that sees is shown; left_out:
    encoders that are given nothing; tokens: in place of any text, chunks of (id or embedding's vector,
    weight) by the encoder's name.
    """

    clip: Clip
    text: str
    embeddings: tuple[File, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    images: tuple[Lazy[Image], ...] = ()
    left_out: tuple[str, ...] = ()
    tokens: Mapping[str, Chunks] = field(default_factory=dict)


@frozen
class ScalePixels(Op[Image]):
    """Images of about `total` pixels, in the same aspect ratio; sides are multiples of `multiple`."""

    pixels: Lazy[Image]
    total: int
    multiple: int = 1


@frozen
class WithOptions(Op[Conditioning]):
    """Conditions with options set, by ComfyUI's names; of a latent, its samples.

    appended: options that are lists (tuples, here), which grow by these.
    """

    conditioning: Lazy[Conditioning]
    options: Mapping[str, Lazy[object]] = field(default_factory=dict)
    appended: Mapping[str, Lazy[object]] = field(default_factory=dict)


@frozen
class WithControlText(Op[Conditioning]):
    """Conditions whose ControlNets read another text: that of the first condition in `text`."""

    conditioning: Lazy[Conditioning]
    text: Lazy[Conditioning]


@frozen
class EmptyLike(Op[Latent]):
    """A latent of zeros as large as another."""

    latent: Lazy[Latent]


@frozen
class ModelSigmas(Op[Sigmas]):
    """The sigmas of a model's own noise range under a schedule. Reads the model's header, not its weights."""

    model: Model
    schedule: Schedule | BetaSchedule | TurboSchedule


@frozen
class PercentSigma(Op[float]):
    """The sigma of a model where `percent` (0..1) of the run is done. Reads the model's header alone.

    inside: 0 and 1 give the ends of its range, in place of what stands for "always" and "never".
    """

    model: Model
    percent: float
    inside: bool


@frozen
class AddNoise(Op[Latent]):
    """A latent noised for a model as far as the sigmas go. Reads the model's header alone."""

    model: Model
    noise: Noise
    sigmas: Lazy[Sigmas]
    latent: Lazy[Latent]


@frozen
class Denoise(Op[Latent]):
    """One sampling run. Outputs: the samples, and the last denoised estimate."""

    kind: ClassVar[OpKind] = "step"
    outputs: ClassVar[int] = 2
    guider: Guider
    latent: Lazy[Latent]
    noise: Noise | GivenNoise | ForeignNoise
    sampler: Sampler | ForeignSampler
    sigmas: Lazy[Sigmas] | Schedule


@frozen
class TracedDenoise(Denoise):
    """A run whose steps a node pack wants to see: a third output, as `worker.traced` has it."""

    outputs: ClassVar[int] = 3


@frozen
class Tiles:
    """Tiling of a VAE in pixels; frames, shared: of VAEs over frames, so many at a time and in two cuts."""

    size: int
    overlap: int
    frames: int = 64
    shared: int = 8


@frozen
class EncodePixels(Op[Latent]):
    vae: Vae
    pixels: Lazy[Image]
    tiles: Tiles | None = None


@frozen
class EncodeInpaint(Op[Latent]):
    """Pixels with the masked part greyed out, and the mask grown by `grow` pixels as the noise mask.

    soft: the noise mask keeps its shades instead, and is not grown.
    """

    vae: Vae
    pixels: Lazy[Image]
    mask: Lazy[Mask]
    grow: int
    soft: bool = False


@frozen
class WithPicture(Op[Conditioning]):
    """Conditions with the picture an inpainting model is shown; its noise mask says what is to be made."""

    conditioning: Lazy[Conditioning]
    picture: Lazy[Latent]


@frozen
class WithMask(Op[Latent]):
    """A latent with the noise mask of another."""

    latent: Lazy[Latent]
    source: Lazy[Latent]


@frozen
class DecodeLatent(Op[Image]):
    vae: Vae
    latent: Lazy[Latent]
    tiles: Tiles | None = None


@frozen
class EncodeVision(Op[ClipVisionOutput]):
    """crop: the square in a picture's middle, not all of it squeezed into a square."""

    clip_vision: ClipVision
    image: Lazy[Image]
    crop: bool = True


@frozen
class ApplyStyle(Op[Conditioning]):
    """Conditions followed by a style's tokens.

    strength: a factor of these, or (biased) of how much attention they get.
    """

    conditioning: Lazy[Conditioning]
    style_model: StyleModel
    vision: Lazy[ClipVisionOutput]
    strength: float = 1.0
    biased: bool = False


@frozen
class Upscale(Op[Image]):
    """Pictures enlarged by a network."""

    model: UpscaleModel
    image: Lazy[Image]


@frozen
class Call(Op[object]):
    """A value node: a Python function on concrete values, run by the host.

    inputs: each name's list of items (a node is called once per item of the longest list; shorter ones repeat
    their last), as literals or `Ref`s. hidden (the submitted prompt and the like) and node_id are handed to
    the node but are no part of the content key; `salt` is: what makes equal inputs different work (a file's
    fingerprint, the client an output node works for).

    missing: lazy inputs that have not run and are handed over as None. result: the key under which the result
    of a node with lazy inputs is kept, whatever it asked for on the way; None: the op's own.
    """

    kind: ClassVar[OpKind] = "host"
    unkeyed: ClassVar[tuple[str, ...]] = ("node_id", "client", "hidden", "job", "result")
    node: str
    inputs: Mapping[str, tuple[object, ...]]
    node_id: NodeId
    client: ClientId | None = None
    hidden: Mapping[str, object] = field(default_factory=dict)
    salt: tuple[object, ...] = ()
    missing: tuple[str, ...] = ()
    result: OpKey | None = None
    job: JobId = _NO_JOB


@frozen
class Needs:
    """A call's answer: its node wants these lazy inputs before it can run."""

    names: tuple[str, ...]


@frozen
class Row:
    """What one call of an expanding node returned, one value per output.

    nodes: the fragment, in API format; values may be links `[id, slot]` then. None: the values stand as they
    are.
    """

    values: tuple[object, ...]
    nodes: Mapping[str, Mapping[str, object]] | None = None


@frozen
class Expanded:
    """A call's answer: other nodes run in place of its own.

    node: the id that the call was told; fingerprints: of the new nodes, by id.
    """

    node: NodeId
    rows: tuple[Row, ...]
    fingerprints: Mapping[str, object] = field(default_factory=dict)


@frozen
class Identify(Op[Contents]):
    """Read a model file through and say what it holds, by content. Run by the host."""

    kind: ClassVar[OpKind] = "host"
    file: File


class Awaiting(Exception):
    """Raised by a reference or model node that can't answer before these ops have run; asked again then."""

    def __init__(self, *ops: Op[object]) -> None:
        self.ops = ops
        super().__init__(f"waits for {len(ops)} ops")


def field_names(value: object) -> tuple[str, ...]:
    """The fields of an op or reference, in order. Raises: TypeError for any other value."""
    return _names_of(type(value))  # type: ignore[arg-type]  # mypy: a class of objects may not hash; all do


def keyed_names(value: object) -> tuple[str, ...]:
    """The fields that say what the value is: those that its class does not list as `unkeyed`."""
    return _keyed_names_of(type(value))  # type: ignore[arg-type]  # as above


@cache
def _keyed_names_of(kind: Hashable) -> tuple[str, ...]:
    unkeyed = getattr(kind, "unkeyed", ())
    return tuple(name for name in _names_of(kind) if name not in unkeyed)


@cache
def _names_of(kind: Hashable) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))  # type: ignore[arg-type]  # a dataclass, else TypeError
