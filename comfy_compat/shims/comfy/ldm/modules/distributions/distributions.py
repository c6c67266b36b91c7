"""ComfyUI's `comfy.ldm.modules.distributions.distributions`."""

import torch


class DiagonalGaussianDistribution:
    """Means and log variances [B, 2C, ...] of independent normal numbers."""

    def __init__(self, parameters, deterministic=False):
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.zeros_like(self.mean) if deterministic else (0.5 * self.logvar).exp()
        self.var = self.std**2

    def sample(self):
        return self.mean + self.std * torch.randn(self.mean.shape, device=self.parameters.device)

    def mode(self):
        return self.mean
