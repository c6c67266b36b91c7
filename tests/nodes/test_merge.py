import pytest

from backend.components import File, LoraUse, Share, Weights
from backend.references import Clip, Model
from tests.nodes.build import run

FILE = File("m", 1, 1, 1)
LORA = LoraUse(Weights("lora", "l", (FILE,)), 0.5)


def model(digest: str, *loras: LoraUse) -> Model:
    return Model(Weights("denoiser", digest, (FILE,)), loras)


def clip(*parts: str, digest: str = "c") -> Clip:
    return Clip(tuple(Weights("text_encoder", f"{digest}-{part}", (FILE,), part) for part in parts))


def test_a_merge_takes_the_loras_of_both_into_its_recipe():
    first, second = model("a", LORA), model("b", LORA)
    merged = run("ModelMergeSimple", model1=first, model2=second, ratio=0.25)
    blend = merged.weights.blend
    assert merged.loras == ()
    assert (blend.base.loras, blend.other.loras) == ((LORA,), (LORA,))
    assert blend.shares == (Share("", 0.25, 0.75),)
    assert merged == run("ModelMergeSimple", model1=first, model2=second, ratio=0.25)
    assert merged != run("ModelMergeSimple", model1=first, model2=second, ratio=0.5)
    assert merged != run("ModelMergeSimple", model1=model("a"), model2=second, ratio=0.25)


def test_all_of_the_first_is_the_first():
    first = model("a", LORA)
    assert run("ModelMergeSimple", model1=first, model2=model("b"), ratio=1.0) is first
    encoder = clip("clip_l")
    assert run("CLIPMergeSimple", clip1=encoder, clip2=clip("clip_l", digest="d"), ratio=1.0) is encoder


@pytest.mark.parametrize(
    ("name", "given", "share"),
    [
        ("ModelMergeAdd", {}, Share("", 1.0, 1.0)),
        ("ModelMergeSubtract", {"multiplier": 2.0}, Share("", 2.0, -2.0)),
    ],
)
def test_sums_and_differences(name, given, share):
    merged = run(name, model1=model("a"), model2=model("b"), **given)
    assert merged.weights.blend.shares == (share,)


def test_what_is_in_no_block_goes_by_the_input():
    merged = run("ModelMergeBlocks", model1=model("a"), model2=model("b"), input=0.1, middle=0.2, out=0.3)
    ratios = {share.start: share.base for share in merged.weights.blend.shares}
    assert ratios == {"": 0.1, "input": 0.1, "middle": 0.2, "out": 0.3}


def test_each_part_of_a_network_has_a_ratio_of_its_own():
    ratios = {"time_embed.": 0.9, "out.": 0.2}
    ratios |= {f"{side}_blocks.{n}.": 0.5 for side in ("input", "output") for n in range(12)}
    ratios |= {"label_emb.": 0.4, **{f"middle_block.{n}.": 0.3 for n in range(3)}}
    merged = run("ModelMergeSD1", model1=model("a"), model2=model("b"), **ratios)
    made = {share.start: share.base for share in merged.weights.blend.shares}
    assert made == {"": 0.9, **ratios}


def test_encoders_are_merged_with_those_of_their_kind():
    merged = run(
        "CLIPMergeSimple", clip1=clip("clip_l", "clip_g"), clip2=clip("clip_g", digest="d"), ratio=0.5
    )
    first, second = merged.weights
    assert (first.digest, first.blend) == ("c-clip_l", None)
    assert second.blend.other.weights.digest == "d-clip_g"
