"""ComfyUI's `comfy_extras.nodes_custom_sampler`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
from comfy.samplers import CFGGuider  # noqa: E402

from comfy_compat.sampling import Noise_EmptyNoise, Noise_RandomNoise  # noqa: E402, F401


class Guider_Basic(CFGGuider):
    """One condition, unsteered."""

    def set_conds(self, positive):
        self.inner_set_conds({"positive": positive})


class DisableNoise:
    @classmethod
    def execute(cls):
        return (Noise_EmptyNoise(),)

    def get_noise(self):
        return (Noise_EmptyNoise(),)
