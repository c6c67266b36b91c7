"""Starts and ends of patches, whose noise levels are those of the model that a node was given."""

from backend.components import Weights
from backend.patches import NO_BLOCKS, FlowSampling, ModelPatch, SkipLayersInNegative
from backend.references import Model
from backend.worker.predictions import prediction_of, timed
from tests.backend.models.families.originals import SD3

SHIFTED = FlowSampling("shifted", 1.5)
SKIPPED = SkipLayersInNegative(NO_BLOCKS, 0.0, 0.3)


def end_of(*patches: ModelPatch) -> float:
    model = timed(SD3, Model(Weights("denoiser", "m", ()), patches=patches))
    found = next(patch for patch in model.patches if isinstance(patch, SkipLayersInNegative))
    assert found.sigmas is not None
    return found.sigmas[1]


def test_sampling_that_is_changed_behind_a_patch_does_not_move_its_end():
    before, after = (prediction_of(SD3, patches).range.percent_to_sigma(0.3) for patches in ((), (SHIFTED,)))
    assert before != after
    assert end_of(SKIPPED, SHIFTED) == before
    assert end_of(SHIFTED, SKIPPED) == after


def test_a_model_without_such_patches_stays_itself():
    model = Model(Weights("denoiser", "m", ()), patches=(SHIFTED,))
    assert timed(SD3, model) is model
