"""The codes that an autoencoder gives the data, and the mixture that is fitted to them."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Estimator
from torch import Tensor

from gan_plugin.data import Dataset
from gan_plugin.media.image import normalize
from gan_plugin.networks.autoencoder import Autoencoder, GaussianMixture, MixtureParameters

MAX_CODES = 10_000  # images whose codes are looked at
BATCH = 256
CODES_PER_COMPONENT = 2  # for each dimension of a code, at least: fewer say nothing about a covariance
REGULARIZATION = 1e-3  # added to each variance, as a share of the codes' mean variance
ACTIVE = 0.01  # variance of a code's mean over the data, from which on it counts as used


@torch.no_grad()
def codes_of(autoencoder: Autoencoder, dataset: Dataset) -> tuple[Tensor, Tensor | None]:
    """Return the codes float32 [N, D] of at most MAX_CODES images, spaced evenly over the data, and their labels."""
    device = next(autoencoder.parameters()).device
    rows = torch.linspace(0, len(dataset) - 1, min(len(dataset), MAX_CODES)).round().long()
    codes = [
        autoencoder.encoder(normalize(dataset.samples[part].to(device).float())).code.cpu()
        for part in rows.split(BATCH)
    ]
    return torch.cat(codes), None if dataset.labels is None else dataset.labels[rows]


def fit_prior(autoencoder: Autoencoder, dataset: Dataset) -> None:
    """Fit an autoencoder's mixture to the codes of the data; one without a mixture is left as it is."""
    prior = autoencoder.prior
    if prior is not None:
        prior.set_parameters(fit_mixture(*codes_of(autoencoder, dataset), prior))


def fit_mixture(codes: Tensor, labels: Tensor | None, prior: GaussianMixture) -> MixtureParameters:
    """Fit as many full Gaussians to the codes of each class as it has enough codes for.

    Args:
        codes: float32 [N, D].
        labels: int64 [N]; unused by a mixture without classes.
        prior: whose components and classes are fitted.
    """
    values = codes.double().numpy()
    regularization = REGULARIZATION * float(values.var(0).mean())
    of_class = [values] if not prior.classes or labels is None else [values[labels == i] for i in range(prior.classes)]
    fitted = [fit_class(own if len(own) else values, prior.components, regularization) for own in of_class]
    return MixtureParameters(*(torch.from_numpy(np.stack(part)) for part in zip(*fitted, strict=True)))


def fit_class(
    codes: npt.NDArray[np.float64], components: int, regularization: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weights [K], means [K, D] and factors [K, D, D] of K components, of which few codes have fewer."""
    count, size = codes.shape
    used = max(1, min(components, count // (CODES_PER_COMPONENT * size)))
    weights, means = np.zeros(components), np.zeros((components, size))
    factors = np.tile(np.eye(size), (components, 1, 1))
    if count == 1:
        weights[0], means[0], factors[0] = 1, codes[0], regularization**0.5 * np.eye(size)
        return weights, means, factors
    estimator = Estimator(used, reg_covar=regularization, random_state=0)
    with warnings.catch_warnings():  # an estimate that has not quite settled is one all the same
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(codes)
    weights[:used], means[:used] = estimator.weights_, estimator.means_
    factors[:used] = np.linalg.cholesky(estimator.covariances_)
    return weights, means, factors


def active_units(codes: Tensor) -> int:
    """Return how many values of the mean codes [N, D] of a variational autoencoder vary over the data.

    It may leave some unused: Burda et al. 2016, arXiv:1509.00519, section 5.1.

    >>> active_units(torch.tensor([[0.0, 1.0], [0.01, 2.0]]))
    1
    """
    return int((codes.var(0) > ACTIVE).sum())
