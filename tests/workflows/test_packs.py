"""Node packs through a real server: nodes that use the engine, functions that run in the worker."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.build import a_node, a_prompt
from tests.serving import error_of, succeeded

pytestmark = pytest.mark.server

PACK = '''
import torch
import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import latent_preview
import nodes
from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/mine/hello")
async def hello(request):
    return web.json_response({"output": folder_paths.get_output_directory()})


class InnerRun:
    """Loads, encodes, samples and decodes inside of one node."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": (folder_paths.get_filename_list("checkpoints"),), "seed": ("INT", {})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    def run(self, name, seed):
        path = folder_paths.get_full_path("checkpoints", name)
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path)
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lighthouse at dusk"))
        (negative,) = nodes.CLIPTextEncode().encode(clip, "blurry")
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        (made,) = nodes.common_ksampler(
            model, seed, 4, 7.0, "euler", "normal", positive, negative, latent
        )
        return (vae.decode(made["samples"]),)


class Patched:
    """A model with functions of the pack's own."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": (["same", "guided", "blocks"],)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    def patch(self, model, kind):
        changed = model.clone()
        if kind == "same":
            changed.set_model_unet_function_wrapper(
                lambda apply, at: apply(at["input"], at["timestep"], **at["c"])
            )
            changed.set_model_sampler_pre_cfg_function(lambda args: args["conds_out"])
            changed.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
        elif kind == "guided":
            changed.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.5)
        else:
            changed.set_model_attn1_replace(lambda q, k, v, options: v, "middle", 0)
        return (changed,)


class Estimated:
    """What a run's callback was told last, taken out of the model's units as ComfyUI's own nodes do."""

    @classmethod
    def INPUT_TYPES(cls):
        conditions = {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",)}
        return {"required": {"model": ("MODEL",), **conditions, "seed": ("INT", {})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"

    def run(self, model, positive, negative, seed):
        start, kept, told = torch.zeros(1, 4, 8, 8), {}, []
        noise = comfy.sample.prepare_noise(start, seed)
        keep = latent_preview.prepare_callback(model, 4, kept)

        def callback(step, x0, x, total):
            told.append((step, total, float(x.std())))
            keep(step, x0, x, total)

        sigmas = comfy.samplers.KSampler(model, 4, "cpu", "euler", "normal").sigmas
        samples = comfy.sample.sample_custom(
            model,
            noise,
            7.0,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            positive,
            negative,
            start,
            callback=callback,
            seed=seed,
        )
        estimate = model.model.process_latent_out(kept["x0"].cpu())
        assert torch.allclose(estimate, samples, atol=1e-3), (estimate.std(), samples.std())
        assert [(step, total) for step, total, _ in told] == [(0, 4), (1, 4), (2, 4), (3, 4)]
        begun = noise.std() * (1 + sigmas[0] ** 2) ** 0.5
        assert abs(told[0][2] / begun - 1) < 0.01, (told[0], begun)
        return ({"samples": estimate},)


NODE_CLASS_MAPPINGS = {"InnerRun": InnerRun, "Patched": Patched, "Estimated": Estimated}
'''


@pytest.fixture
def served(own_server):
    pack = own_server.base / "custom_nodes" / "mine"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)
    with own_server as server:
        yield server


def pixels(server, prompt) -> np.ndarray:
    """The picture that node 9 of a prompt saves."""
    entry = server.run(prompt)
    assert succeeded(entry), error_of(entry)
    (shown,) = entry["outputs"]["9"]["images"]
    data = server.read(f"/view?filename={shown['filename']}&type=output&subfolder={shown['subfolder']}")
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def patched(kind):
    """The usual prompt, its model through the pack's node."""
    prompt = a_prompt(more={"model": ["10", 0]}, prefix=kind)
    return {**prompt, "10": a_node("Patched", model=["4", 0], kind=kind)}


def test_a_pack_s_nodes_routes_and_functions(served):
    (told,) = served.get("/tessera/packs")
    assert (told["name"], told["nodes"]) == ("mine", ["InnerRun", "Patched", "Estimated"])
    assert told["error"] is None
    assert served.get("/mine/hello") == served.get("/api/mine/hello")
    plain = pixels(served, a_prompt())
    inner = {
        "1": a_node("InnerRun", name="demo.safetensors", seed=1),
        "9": a_node("SaveImage", images=["1", 0], filename_prefix="inner"),
    }
    assert np.abs(pixels(served, inner) - plain).max() <= 1
    estimated = {**a_prompt(prefix="estimated"), "3": a_node("Estimated", model=["4", 0], seed=1)}
    estimated["3"]["inputs"] |= {"positive": ["6", 0], "negative": ["7", 0]}
    assert np.abs(pixels(served, estimated) - plain).max() <= 1
    assert np.abs(pixels(served, patched("same")) - plain).max() <= 1
    assert np.abs(pixels(served, patched("guided")) - plain).max() > 5
    assert np.abs(pixels(served, patched("blocks")) - plain).max() > 1
