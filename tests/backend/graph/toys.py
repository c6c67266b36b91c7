"""A small registry: nodes of the three kinds that need neither torch nor files."""

from collections.abc import Mapping
from typing import Annotated, Any

from backend.components import File, Weights
from backend.guiders import CfgGuider, Noise, Sampler, Schedule
from backend.node import Int, NodeSpec, Result, node
from backend.ops import DecodeLatent, Denoise, EncodeText, Op
from backend.references import Clip, Model, Vae
from backend.registry import Registry
from backend.types import AnyValue, Conditioning, Image, Latent


def a_file(name: str) -> File:
    return File(name, 1, 1, 1)


@node("Loader", category="toys")
def loader(*, name: str) -> tuple[Model, Clip, Vae]:
    """References to the three networks of a checkpoint."""
    if name == "missing":
        raise FileNotFoundError(f"no checkpoint {name!r}")
    files = (a_file(name),)
    return (
        Model(Weights("denoiser", name, files)),
        Clip((Weights("text_encoder", name, files),)),
        Vae(Weights("vae", name, files)),
    )


@node("Text", category="toys")
def text(*, clip: Clip, text: str) -> Op[Conditioning]:
    return EncodeText(clip, text)


@node("Empty", category="toys")
def empty(*, width: Annotated[int, Int(1, 64)] = 8) -> Latent:
    return Latent([width])  # type: ignore[arg-type]  # stands for a tensor


@node("Sample", category="toys")
def sample(*, model: Model, positive: Conditioning, latent: Latent, seed: int = 0) -> Op[Latent]:
    guider = CfgGuider(model, positive, positive, 7.0)
    return Denoise(guider, latent, Noise(seed), Sampler("euler"), Schedule("normal", 4))


@node("Decode", category="toys")
def decode(*, vae: Vae, samples: Latent) -> Op[Image]:
    return DecodeLatent(vae, samples)


@node("Add", category="toys")
def add(*, a: int, b: int | None = None) -> int:
    return a + (b or 1)


@node("Show", category="toys", output_node=True)
def show(*, value: AnyValue, tag: str | None = None) -> Result:
    return Result(ui={"shown": [value]})


def a_registry(*more: NodeSpec) -> Registry:
    return Registry([loader, text, empty, sample, decode, add, show, *more])


def an_image_prompt(text: str = "a fox", seed: int = 1, checkpoint: str = "a") -> dict[str, object]:
    """Loader -> Text, Empty -> Sample -> Decode -> Show."""
    return {
        "1": {"class_type": "Loader", "inputs": {"name": checkpoint}},
        "2": {"class_type": "Text", "inputs": {"clip": ["1", 1], "text": text}},
        "3": {"class_type": "Empty", "inputs": {"width": 8}},
        "4": {
            "class_type": "Sample",
            "inputs": {"model": ["1", 0], "positive": ["2", 0], "latent": ["3", 0], "seed": seed},
        },
        "5": {"class_type": "Decode", "inputs": {"vae": ["1", 2], "samples": ["4", 0]}},
        "6": {"class_type": "Show", "inputs": {"value": ["5", 0]}},
    }


def a_sum_prompt(a: int, width_from_sum: bool = False) -> dict[str, object]:
    """Add -> Show, or Add -> Loader's seed ... where a number must be known before lowering can go on."""
    prompt = an_image_prompt()
    prompt["7"] = {"class_type": "Add", "inputs": {"a": a, "b": 2}}
    if width_from_sum:
        prompt["4"]["inputs"]["seed"] = ["7", 0]  # type: ignore[index]
        return prompt
    return {"7": prompt["7"], "8": {"class_type": "Show", "inputs": {"value": ["7", 0]}}}


def renumbered(prompt: Mapping[str, Any]) -> dict[str, object]:
    """The same prompt with an x before every node's id."""
    return {
        f"x{id}": {
            "class_type": n["class_type"],
            "inputs": {k: [f"x{v[0]}", v[1]] if isinstance(v, list) else v for k, v in n["inputs"].items()},
        }
        for id, n in prompt.items()
    }
