"""One training step of an autoencoder: gradients of both networks by one loss, and what is moved by them."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_plugin.config.recipe import Hyperparameters, Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.device import MEMORY_FORMAT, autocast
from gan_plugin.distributed import ALONE, Ranks
from gan_plugin.media.image import normalize
from gan_plugin.networks.autoencoder import Autoencoder, Encoding
from gan_plugin.objectives import code_norm, gaussian_nll, kl_divergence, squared_error, weight_norm
from gan_plugin.training.capture import Capture, as_it_is
from gan_plugin.training.ema import Averager, ema_decay
from gan_plugin.training.gradients import Gradients, laid_out_like
from gan_plugin.training.optimizers import follow_ramps
from gan_plugin.training.state import TrainingState


class AutoencoderStep:
    """A training step, called with a batch; the second argument is that of other methods, and unused.

    A call returns scalars on the device under the names in ``autoencoder_metrics`` and never synchronizes with the
    host.
    """

    def __init__(
        self,
        state: TrainingState,
        recipe: Recipe,
        precision: torch.dtype,
        *,
        capture: Capture = as_it_is,
        ranks: Ranks = ALONE,
    ) -> None:
        self.state, self.recipe, self.precision, self.ranks = state, recipe, precision, ranks
        self.autoencoder = cast(Autoencoder, state.generator)
        self.weights = {"generator": list(self.autoencoder.parameters())}
        self.device = self.weights["generator"][0].device
        self.gradients = capture(self.of_autoencoder)
        self.averager = Averager(state.ema, state.generator)
        self.values: Hyperparameters | None = None  # of the latest step

    def __call__(self, batch: Batch, _: Batch) -> dict[str, Tensor]:
        state = self.state
        values = self.recipe.at(state.progress)
        if values != self.values:
            self.values = values
            follow_ramps(state.optimizers, self.recipe, values)
        gradients: Gradients = self.gradients(batch).averaged(self.ranks)
        gradients.move(state.optimizers, self.weights)
        state.steps += 1
        self.averager.update(ema_decay(self.recipe, state.steps, values.ema_half_life))
        return gradients.metrics

    def of_autoencoder(self, batch: Batch) -> Gradients:
        """Return the gradients of the loss by the weights of both networks."""
        x = normalize(batch.samples.float()).contiguous(memory_format=MEMORY_FORMAT)
        with autocast(self.device, self.precision):
            encoding = self.autoencoder.encoder(x)
        code = encoding.code if encoding.log_variance is None else sample(encoding.code, encoding.log_variance)
        with autocast(self.device, self.precision):
            reconstruction = self.autoencoder.decode(code, batch.labels).float()
        loss, metrics = self.loss(x, reconstruction, code=code, encoding=encoding)
        if encoding.class_logits is not None and batch.labels is not None:
            metrics["loss/label"] = F.cross_entropy(encoding.class_logits, batch.labels)
            loss = loss + metrics["loss/label"]
        weights = self.weights["generator"]
        of_weights = torch.autograd.grad(loss, weights)
        laid_out = [laid_out_like(weight, gradient) for weight, gradient in zip(weights, of_weights, strict=True)]
        return Gradients({"generator": laid_out}, {name: value.detach() for name, value in metrics.items()})

    def loss(
        self, x: Tensor, reconstruction: Tensor, *, code: Tensor, encoding: Encoding
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss that the recipe's method minimizes, and what is logged of it.

        Args:
            x: images [B, C, H, W] in −1…1; ``reconstruction`` likewise.
            code: [B, D], from which the reconstruction was made.
            encoding: by which the code was drawn.
        """
        recipe, error = self.recipe, squared_error(x, reconstruction)
        metrics = {"loss/reconstruction": error / x[0].numel()}
        match recipe.method:
            case "vae":
                assert encoding.log_variance is not None
                metrics["loss/kl"] = kl_divergence(encoding.code, encoding.log_variance)
                return gaussian_nll(x, reconstruction) + metrics["loss/kl"], metrics
            case "rae":
                metrics["loss/code_norm"] = code_norm(code)
                of_decoder = recipe.decoder_penalty * weight_norm(self.autoencoder.decoder.parameters())
                return error + recipe.code_penalty * metrics["loss/code_norm"] + of_decoder, metrics
            case _:
                return error, metrics


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw codes from N(μ, σ²), both [B, D], so that they have gradients by both."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def autoencoder_metrics(recipe: Recipe) -> list[str]:
    """Return the names of the metrics that a step of this recipe reports."""
    of_code = {"vae": ["loss/kl"], "rae": ["loss/code_norm"]}
    of_label = ["loss/label"] if recipe.conditional else []
    return ["loss/reconstruction", *of_code.get(recipe.method, []), *of_label]
