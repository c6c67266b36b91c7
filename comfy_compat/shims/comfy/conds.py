"""ComfyUI's `comfy.conds`: inputs of a network beside the latent."""

import math

import torch

import comfy.utils


class CONDRegular:
    """A tensor that is repeated over the batch."""

    def __init__(self, cond):
        self.cond = cond

    def _copy_with(self, cond):
        return self.__class__(cond)

    def process_cond(self, batch_size, area=None, **kwargs):
        return self._copy_with(comfy.utils.repeat_to_batch_size(self.cond, batch_size))

    def can_concat(self, other):
        return self.cond.shape == other.cond.shape

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self):
        return list(self.cond.size())


class CONDNoiseShape(CONDRegular):
    """A tensor with as many places as the latent: a part of it for an area."""

    def process_cond(self, batch_size, area=None, **kwargs):
        data = self.cond
        if area is not None:
            dims = len(area) // 2
            for axis in range(dims):
                data = data.narrow(axis + 2, area[axis + dims], area[axis])
        return self._copy_with(comfy.utils.repeat_to_batch_size(data, batch_size))


class CONDCrossAttn(CONDRegular):
    """Tokens: those of different lengths are repeated to their common multiple."""

    def can_concat(self, other):
        ours, theirs = self.cond.shape, other.cond.shape
        if ours == theirs:
            return True
        if ours[0] != theirs[0] or ours[2] != theirs[2]:
            return False
        return math.lcm(ours[1], theirs[1]) // min(ours[1], theirs[1]) <= 4

    def concat(self, others):
        conds = [self.cond, *(other.cond for other in others)]
        length = math.lcm(*(cond.shape[1] for cond in conds))
        return torch.cat([cond.repeat(1, length // cond.shape[1], 1) for cond in conds])


class CONDConstant(CONDRegular):
    """A value that is the same for all rows."""

    def process_cond(self, batch_size, area=None, **kwargs):
        return self._copy_with(self.cond)

    def can_concat(self, other):
        return self.cond == other.cond

    def concat(self, others):
        return self.cond

    def size(self):
        return [1]


class CONDList(CONDRegular):
    """Several tensors."""

    def process_cond(self, batch_size, area=None, **kwargs):
        return self._copy_with([comfy.utils.repeat_to_batch_size(c, batch_size) for c in self.cond])

    def can_concat(self, other):
        return [c.shape for c in self.cond] == [c.shape for c in other.cond]

    def concat(self, others):
        return [torch.cat([own, *(other.cond[i] for other in others)]) for i, own in enumerate(self.cond)]

    def size(self):
        return [1, 1, sum(math.prod(c.size()) for c in self.cond)]
