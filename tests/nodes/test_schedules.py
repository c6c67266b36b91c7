import torch

from tests.nodes.build import run


def test_split_sigmas_share_the_sigma_of_the_cut():
    high, low = run("SplitSigmas", sigmas=torch.tensor([4.0, 3.0, 2.0, 0.0]), step=1)
    assert (high.tolist(), low.tolist()) == ([4.0, 3.0], [3.0, 2.0, 0.0])
