"""Cases that are a call of ComfyUI's sampling function, as workflows: given tensors come from the nodes of
`pack/`.
"""

from pathlib import Path
from typing import Any

_INIT = {"zeros": 0.0, "gray": 0.25}


def workflow(name: str, call: dict[str, Any], models: Path) -> dict[str, Any]:
    """The prompt that does what the call did. models: the folder that holds the reference set's model
    files.
    """
    path = str(models / "conditioning" / call["conditioning"])
    prompt: dict[str, Any] = {
        "model": _node("UNETLoader", unet_name=call["diffusion_model"], weight_dtype="default"),
        "latent": _node("ParityLatent", shape=",".join(map(str, call["latent"])), value=_INIT[call["init"]]),
        "positive": _node("ParityConditioning", path=path, side="positive"),
        "negative": _node("ParityConditioning", path=path, side="negative"),
    }
    model, sides = "model", {side: side for side in ("positive", "negative")}
    if call["model_sampling"] is not None:
        kind, settings = call["model_sampling"]
        prompt["sampling"] = _node(kind, model=["model", 0], **settings)
        model = "sampling"
    if call["guidance"] is not None:
        for side in sides:
            guided = _node("FluxGuidance", conditioning=[side, 0], guidance=call["guidance"])
            prompt[f"guided {side}"], sides[side] = guided, f"guided {side}"
    inputs = {side: [node, 0] for side, node in sides.items()}
    prompt["sampler"] = _node(
        "KSampler",
        model=[model, 0],
        latent_image=["latent", 0],
        sampler_name=call["sampler"],
        **inputs,
        **{name: call[name] for name in ("seed", "steps", "cfg", "scheduler", "denoise")},
    )
    prompt["save"] = _node("SaveLatent", samples=["sampler", 0], filename_prefix=f"parity/{name}")
    if call.get("vae"):
        prompt["vae"] = _node("VAELoader", vae_name=call["vae"])
        prompt["image"] = _node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])
        prompt["saved"] = _node("SaveImage", images=["image", 0], filename_prefix=f"parity/{name}")
    return prompt


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
