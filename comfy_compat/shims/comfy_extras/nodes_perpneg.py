"""ComfyUI's `comfy_extras.nodes_perpneg`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
from comfy.samplers import CFGGuider  # noqa: E402


class Guider_PerpNeg(CFGGuider):
    """Guidance from an empty condition; sampled by the server's PerpNegGuider."""

    def set_conds(self, positive, negative, empty_negative_prompt):
        self.inner_set_conds({"positive": positive, "negative": negative, "empty": empty_negative_prompt})

    def set_cfg(self, cfg, neg_scale):
        self.cfg, self.neg_scale = cfg, neg_scale
