"""Guidance as functions of packs call it in a run: predictions under lists of conditions, and what is made of
them. The lists are opaque; each stands for one side of the run's guider.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from comfy_compat.wrappers import wrapped

Options = dict[str, Any]


def opaque(side: str) -> list[dict[str, Any]]:
    """What stands for a side's conditions."""
    return [{"side": side, "uuid": side, "model_conds": {}}]


def calc_cond_batch(
    model: Any, conds: Sequence[Any], x_in: Tensor, timestep: Tensor, model_options: Options
) -> list[Tensor]:
    """The denoised latent under each list of conditions."""
    inner = model_options.get("transformer_options")
    made: list[Tensor] = wrapped(_predictions, "calc_cond_batch", inner)(
        model, conds, x_in, timestep, model_options
    )
    return made


def _predictions(
    model: Any, conds: Sequence[Any], x_in: Tensor, timestep: Tensor, model_options: Options
) -> list[Tensor]:
    return [
        model.predict(cond[0]["side"], x_in, timestep, model_options) if cond else torch.zeros_like(x_in)
        for cond in conds
    ]


def cfg_function(
    model: Any,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: Options | None = None,
    cond: Any = None,
    uncond: Any = None,
) -> Tensor:
    """Guidance, with the functions that the options hold."""
    options = model_options or {}
    args = {
        "cond_scale": cond_scale,
        "timestep": timestep,
        "input": x,
        "sigma": timestep,
        "cond_denoised": cond_pred,
        "uncond_denoised": uncond_pred,
        "model": model,
        "model_options": options,
        "input_cond": cond,
        "input_uncond": uncond,
    }
    if "sampler_cfg_function" in options:
        own = options["sampler_cfg_function"]
        result: Tensor = x - own({**args, "cond": x - cond_pred, "uncond": x - uncond_pred})
    else:
        result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in options.get("sampler_post_cfg_function", []):
        result = function({**args, "denoised": result, "cond": cond, "uncond": uncond})
    return result


def sampling_function(
    model: Any,
    x: Tensor,
    timestep: Tensor,
    uncond: Any,
    cond: Any,
    cond_scale: float,
    model_options: Options | None = None,
    seed: Any = None,
) -> Tensor:
    """The guided estimate under two lists of conditions."""
    options = model_options or {}
    alone = math.isclose(cond_scale, 1.0) and not options.get("disable_cfg1_optimization", False)
    conds = [cond, None if alone else uncond]
    if "sampler_calc_cond_batch_function" in options:
        out = options["sampler_calc_cond_batch_function"](
            {"conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": options}
        )
    else:
        out = calc_cond_batch(model, conds, x, timestep, options)
    for function in options.get("sampler_pre_cfg_function", []):
        out = function(
            {
                "conds": conds,
                "conds_out": out,
                "cond_scale": cond_scale,
                "timestep": timestep,
                "input": x,
                "sigma": timestep,
                "model": model,
                "model_options": options,
            }
        )
    return cfg_function(model, out[0], out[1], cond_scale, x, timestep, options, cond, conds[1])
