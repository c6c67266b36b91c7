"""Builders with sensible defaults: prompts for tests."""

from collections.abc import Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]


def a_node(class_type: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def a_tiny_prompt(color: int = 0, size: int = 16) -> Prompt:
    """No model: an inverted plain image, saved."""
    return {
        "1": a_node("EmptyImage", width=size, height=size, batch_size=1, color=color),
        "2": a_node("ImageInvert", image=["1", 0]),
        "3": a_node("SaveImage", images=["2", 0], filename_prefix="tiny"),
    }


def a_prompt(
    checkpoint: str = "demo.safetensors",
    *,
    text: str = "a lighthouse at dusk",
    seed: int = 1,
    steps: int = 4,
    size: int = 64,
    sampler: str = "euler",
    prefix: str = "image",
    more: Mapping[str, object] | None = None,
) -> Prompt:
    """Text to image with the nodes of ComfyUI's classic default workflow. more: other KSampler inputs."""
    sampling = {
        "seed": seed,
        "steps": steps,
        "cfg": 7.0,
        "sampler_name": sampler,
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": a_node("KSampler", **{**sampling, **(more or {})}),
        "4": a_node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "5": a_node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "6": a_node("CLIPTextEncode", text=text, clip=["4", 1]),
        "7": a_node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": a_node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": a_node("SaveImage", images=["8", 0], filename_prefix=prefix),
    }
