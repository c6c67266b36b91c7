"""Importing model classes without what they don't need."""

import subprocess
import sys

LOADED = """
import sys
from backend.models.lean import without_extras
with without_extras():
    from backend.worker import loop
import torch
torch.nn.Embedding(2, 2, device="meta")  # torch marks what fills it as not to be compiled
heavy = {"transformers", "scipy", "torch._dynamo.eval_frame"} & set(sys.modules)
assert not heavy, heavy
import torch._dynamo.eval_frame
assert torch._dynamo.eval_frame is sys.modules["torch._dynamo.eval_frame"]
assert torch._dynamo.is_compiling() is False  # the compiler itself, not what stood in for it
import scipy
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
"""


def test_a_worker_loads_neither_transformers_nor_scipy_nor_the_compiler_and_can_import_them_later():
    ended = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
