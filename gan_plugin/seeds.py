"""Seed → z and class: the same image for the same seed, alone or in a batch, in every process and every language.

A seed is the key of the counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3", doi:10.1145/2063384.2063405). Value ``i`` of z comes from block ``i // 4`` of that seed alone:

    key     = (seed mod 2³², seed div 2³²)
    counter = (i // 4, attempt, 0, 0)          attempt = 0 unless z is truncated
    x₀…x₃   = Philox4x32-10(counter, key)
    u       = (x + ½) / 2³²                    in float64, so 0 < u < 1
    z       = √(−2 ln u₀)·cos 2πu₁, √(−2 ln u₀)·sin 2πu₁, √(−2 ln u₂)·cos 2πu₃, √(−2 ln u₂)·sin 2πu₃   as float32

With a truncation t, a value beyond ±t is replaced by the one at the same place of attempt 1, 2, … until it lies
within: z then follows the normal distribution cut off at ±t (Brock et al. 2019, arXiv:1809.11096).

The path from the z of one seed to that of another is an arc (spherical interpolation, Shoemake 1985,
doi:10.1145/325165.325242; White 2016, arXiv:1609.04468). At position p from 0 to 1, θ the angle between both, in
float64:

    z = sin((1−p)θ)/sin θ · z₀ + sin(pθ)/sin θ · z₁   as float32; (1−p)·z₀ + p·z₁ where sin θ < 10⁻⁶

Test vectors for other languages are in tests/vectors/seeds.json, images in examples/vectors.json.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIN_TRUNCATION = 0.1  # below it nearly every value has to be drawn again hundreds of times

MIN_SINE = 1e-6  # two z of nearly one direction have no arc between them

_ROUNDS = 10
_SWAPPED = (0xCD9E8D57, 0xD2511F53)  # multipliers, of word 2 and of word 0
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]  # 32-bit words, kept in 64 bits so that products do not overflow


def philox(counter: Words, key: Words) -> Words:
    """Run ten rounds of Philox4x32 on counters [4, …] and keys [2, …], whose other dimensions broadcast.

    Returns:
        words [4, …].
    """
    multipliers, weyl = (np.array(pair, np.uint64).reshape(2, *[1] * (counter.ndim - 1)) for pair in (_SWAPPED, _WEYL))
    even, odd = counter[0::2], counter[1::2]  # words 0 and 2, 1 and 3: a round does the same to both pairs
    rounds = np.arange(_ROUNDS, dtype=np.uint64).reshape(-1, *[1] * counter.ndim)
    for round_key in (key + rounds * weyl) & _LOW:  # [2, …]
        products = multipliers * even[::-1]
        even, odd = (products >> _HALF) ^ odd ^ round_key, products & _LOW
    return np.stack([even, odd], axis=1).reshape(4, *even.shape[1:])


def latents(seeds: npt.ArrayLike, latent_size: int, truncation: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """Draw z float32 [N, latent_size] of N seeds, each an integer from 0 to 2⁵³ − 1.

    ``truncation`` is one bound or one for each seed, in standard deviations, at least 0.1; None or NaN is no bound.

    >>> latents([0, 7], 3).round(3).tolist() == [latents(0, 3)[0].round(3).tolist(), latents(7, 3)[0].round(3).tolist()]
    True
    """
    keys = np.atleast_1d(np.asarray(seeds)).astype(np.uint64)
    z = _normal(keys, latent_size, attempt=0)
    if truncation is None:
        return z
    bounds = np.broadcast_to(np.asarray(truncation, np.float32), keys.shape)
    bounds = np.where(np.isnan(bounds), np.float32(np.inf), bounds)[:, None]
    attempt = 0
    while (out_of_range := np.abs(z) > bounds).any():
        attempt += 1
        rows = out_of_range.any(axis=1)
        resampled = _normal(keys[rows], latent_size, attempt)
        z[rows] = np.where(out_of_range[rows], resampled, z[rows])
    return z


def between(
    start: npt.NDArray[np.float32], end: npt.NDArray[np.float32], position: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Interpolate z float32 [N, latent_size] on the arcs from ``start`` to ``end``, both [N, latent_size].

    ``position`` [N] is 0 at the start and 1 at the end.

    >>> between(latents(0, 3), latents(7, 3), [0.0]).tolist() == latents(0, 3).tolist()
    True
    """
    z0, z1 = start.astype(np.float64), end.astype(np.float64)
    p = np.asarray(position, np.float64)[:, None]  # [N, 1]
    lengths = np.linalg.norm(z0, axis=1) * np.linalg.norm(z1, axis=1)
    cosine = np.clip((z0 * z1).sum(1) / lengths, -1, 1)
    angle = np.arccos(cosine)[:, None]  # [N, 1]
    parallel = np.sin(angle) < MIN_SINE
    sine = np.where(parallel, 1.0, np.sin(angle))
    a = np.where(parallel, 1 - p, np.sin((1 - p) * angle) / sine)
    b = np.where(parallel, p, np.sin(p * angle) / sine)
    return (a * z0 + b * z1).astype(np.float32)


def default_labels(seeds: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    """Return the class of each seed that comes without one: ``seed mod classes``, int64 of the shape of ``seeds``.

    So consecutive seeds show all classes.

    >>> default_labels([0, 1, 2, 13], 10).tolist()
    [0, 1, 2, 3]
    """
    return np.asarray(seeds, np.int64) % classes


def _normal(seeds: Words, latent_size: int, attempt: int) -> npt.NDArray[np.float32]:
    """Draw standard normal values float32 [N, latent_size] of one attempt."""
    blocks = -(-latent_size // 4)
    counter = np.zeros((4, 1, blocks), np.uint64)
    counter[0], counter[1] = np.arange(blocks), attempt
    key = np.stack([seeds & _LOW, seeds >> _HALF])[:, :, None]  # [2, N, 1]
    u = (philox(counter, key).astype(np.float64) + 0.5) / 2.0**32  # [4, N, blocks]
    radius, angle = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]  # [2, N, blocks] each
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)  # [pair, cosine or sine, N, blocks]
    return values.transpose(2, 3, 0, 1).reshape(len(seeds), -1)[:, :latent_size].astype(np.float32)
