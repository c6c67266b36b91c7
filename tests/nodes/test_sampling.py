from backend.components import File, Weights
from backend.guiders import BasicGuider, CfgGuider, DualCfgGuider, Noise, PerpNegGuider, Sampler, Schedule
from backend.ops import (
    DecodeLatent,
    Denoise,
    EncodeInpaint,
    EncodePixels,
    EncodeText,
    ModelSigmas,
    Part,
    Tiles,
    WithMask,
    WithPicture,
)
from backend.references import Clip, Model, Ref, Vae
from backend.types import OpKey
from tests.nodes.build import REGISTRY, run

FILE = File("m.safetensors", 1, 2, 3)
MODEL, VAE = Model(Weights("denoiser", "m", (FILE,))), Vae(Weights("vae", "m", (FILE,)))
POSITIVE, NEGATIVE, LATENT, SIGMAS, PIXELS = (
    Ref(OpKey(k)) for k in ("positive", "negative", "latent", "sigmas", "px")
)
MASK = Ref(OpKey("mask"))
CONDITIONED = {"model": MODEL, "positive": POSITIVE, "negative": NEGATIVE}
SCHEDULED = {"steps": 9, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras", "latent_image": LATENT}


def test_a_ksampler_is_a_denoise_over_what_it_is_given():
    assert run("KSampler", **CONDITIONED, **SCHEDULED, seed=7, denoise=0.5) == Denoise(
        CfgGuider(MODEL, POSITIVE, NEGATIVE, 4.0),
        LATENT,
        Noise(7),
        Sampler("euler"),
        Schedule("karras", 9, 0.5),
    )


def test_an_advanced_ksampler_says_where_it_starts_and_ends():
    inputs = {"start_at_step": 2, "end_at_step": 6, "add_noise": "disable", "noise_seed": 7}
    op = run("KSamplerAdvanced", **CONDITIONED, **SCHEDULED, **inputs, return_with_leftover_noise="enable")
    assert op.noise == Noise(7, enabled=False)
    assert op.sigmas == Schedule("karras", 9, 1.0, 2, 6, force_full_denoise=False)
    op = run(
        "KSamplerAdvanced",
        **CONDITIONED,
        **SCHEDULED,
        add_noise="enable",
        return_with_leftover_noise="disable",
    )
    assert op.noise.enabled
    assert op.sigmas == Schedule("karras", 9, 1.0, 0, 10000, force_full_denoise=True)


def test_custom_samplers_have_both_outputs_of_one_run():
    inputs = {"sampler": Sampler("lcm"), "sigmas": SIGMAS, "latent_image": LATENT}
    first, second = run("SamplerCustom", **CONDITIONED, **inputs, add_noise=False, noise_seed=3, cfg=1.0)
    assert first.op == second.op == Denoise(
        CfgGuider(MODEL, POSITIVE, NEGATIVE, 1.0), LATENT, Noise(3, enabled=False), Sampler("lcm"), SIGMAS
    )  # fmt: skip
    assert (first.slot, second.slot) == (0, 1)
    guider = run("BasicGuider", model=MODEL, conditioning=POSITIVE)
    assert guider == BasicGuider(MODEL, POSITIVE)
    first, second = run(
        "SamplerCustomAdvanced", noise=run("RandomNoise", noise_seed=5), guider=guider, **inputs
    )
    assert first == Part(Denoise(guider, LATENT, Noise(5), Sampler("lcm"), SIGMAS), 0)


def test_parts_of_a_custom_sampling_are_references():
    assert run("CFGGuider", **CONDITIONED, cfg=2.0) == CfgGuider(MODEL, POSITIVE, NEGATIVE, 2.0)
    assert run("DisableNoise") == Noise(0, enabled=False)
    assert run("KSamplerSelect", sampler_name="uni_pc") == Sampler("uni_pc")
    assert run("BasicScheduler", model=MODEL, scheduler="beta", steps=4, denoise=0.5) == ModelSigmas(
        MODEL, Schedule("beta", 4, 0.5)
    )


def test_encoding_and_decoding_are_ops():
    clip = Clip((Weights("text_encoder", "m", (FILE,)),))
    assert run("CLIPTextEncode", text="a cat", clip=clip) == EncodeText(clip, "a cat")
    assert run("VAEDecode", samples=LATENT, vae=VAE) == DecodeLatent(VAE, LATENT)
    assert run("VAEEncode", pixels=PIXELS, vae=VAE) == EncodePixels(VAE, PIXELS)
    assert run("VAEEncodeForInpaint", pixels=PIXELS, vae=VAE, mask=POSITIVE) == EncodeInpaint(
        VAE, PIXELS, POSITIVE, 6
    )


def test_tiles_overlap_by_a_quarter_at_most_when_decoding():
    assert run("VAEDecodeTiled", samples=LATENT, vae=VAE, tile_size=128, overlap=64).tiles == Tiles(128, 32)
    assert run("VAEDecodeTiled", samples=LATENT, vae=VAE).tiles == Tiles(512, 64)
    assert run("VAEEncodeTiled", pixels=PIXELS, vae=VAE).tiles == Tiles(512, 64)


def test_nodes_are_of_the_kind_that_their_results_say():
    kinds = {
        name: REGISTRY.find(name).kind for name in ("KSampler", "CFGGuider", "LoraLoader", "SplitSigmas")
    }
    assert kinds == {
        "KSampler": "model",
        "CFGGuider": "reference",
        "LoraLoader": "reference",
        "SplitSigmas": "value",
    }


def test_an_inpainting_model_is_shown_the_greyed_picture_on_both_sides():
    inputs = {"positive": POSITIVE, "negative": NEGATIVE, "vae": VAE, "pixels": PIXELS, "mask": MASK}
    shown, whole = EncodeInpaint(VAE, PIXELS, MASK, 0, soft=True), EncodePixels(VAE, PIXELS)
    sides = WithPicture(POSITIVE, shown), WithPicture(NEGATIVE, shown)
    masked = run("InpaintModelConditioning", **inputs, noise_mask=True)
    assert masked == (*sides, WithMask(whole, shown))
    assert run("InpaintModelConditioning", **inputs, noise_mask=False) == (*sides, whole)


def test_guiders_of_three_sides_hold_them_by_name():
    dual = run(
        "DualCFGGuider",
        model=MODEL,
        cond1=POSITIVE,
        cond2=SIGMAS,
        negative=NEGATIVE,
        cfg_conds=6.0,
        cfg_cond2_negative=3.0,
        style="nested",
    )
    assert dual == DualCfgGuider(MODEL, POSITIVE, SIGMAS, NEGATIVE, 6.0, 3.0, nested=True)
    perp = run("PerpNegGuider", **CONDITIONED, empty_conditioning=SIGMAS, cfg=6.0, neg_scale=1.2)
    assert perp == PerpNegGuider(MODEL, POSITIVE, NEGATIVE, SIGMAS, 6.0, 1.2)
