"""Seed → z: known answers, independence of the batch, truncation."""

import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gan_plugin.seeds import latents, philox
from gan_plugin.spec import MAX_SEED

VECTORS = Path(__file__).parent / "vectors" / "seeds.json"

# kat_vectors of the Random123 library for philox4x32-10: counter, key, result
PHILOX = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_philox_gives_the_published_answers(counter: list[int], key: list[int], result: list[int]) -> None:
    assert philox(np.array(counter, np.uint64), np.array(key, np.uint64)).tolist() == result


def plain_value(seed: int, i: int, attempt: int) -> float:
    """One value of z by the documented recipe, in plain integers: what another language would write."""
    mask = 2**32 - 1
    c, k = [i // 4, attempt, 0, 0], [seed & mask, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    u = [(word + 0.5) / 2**32 for word in c]
    pair = i % 4 // 2 * 2
    radius, angle = math.sqrt(-2 * math.log(u[pair])), 2 * math.pi * u[pair + 1]
    return radius * (math.sin(angle) if i % 2 else math.cos(angle))


def plain_latent(seed: int, latent_size: int, truncation: float | None) -> list[float]:
    bound = math.inf if truncation is None else truncation
    attempts = (map(functools.partial(plain_value, seed, i), itertools.count()) for i in range(latent_size))
    return [next(value for value in values if abs(value) <= bound) for values in attempts]


def test_the_vectors_for_other_languages() -> None:
    for vector in json.loads(VECTORS.read_text()):
        arguments = vector["seed"], vector["latent_size"], vector["truncation"]
        for z in (latents(*arguments)[0], plain_latent(*arguments)):
            np.testing.assert_allclose(z, vector["z"], rtol=0, atol=1e-6)


def test_a_seed_does_not_depend_on_its_batch_or_on_the_length_of_z() -> None:
    seeds = [5, 0, MAX_SEED, 2**32, 5]
    together = latents(seeds, 100, truncation=0.7)
    for row, seed in zip(together, seeds, strict=True):
        np.testing.assert_array_equal(row, latents(seed, 100, truncation=0.7)[0])
    np.testing.assert_array_equal(latents(7, 30)[0], latents(7, 100)[0, :30])


def test_neighboring_and_large_seeds_are_unrelated() -> None:
    z = latents([0, 1, 2**32, 2**32 + 1, MAX_SEED], 4096)
    correlation = np.corrcoef(z) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(4096)


def test_values_are_standard_normal() -> None:
    z = latents(np.arange(2000), 100).ravel()
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    # shares within 1, 2 and 3 standard deviations
    np.testing.assert_allclose([(np.abs(z) < k).mean() for k in (1, 2, 3)], [0.6827, 0.9545, 0.9973], atol=0.003)


def test_truncation_redraws_what_lies_outside_and_keeps_the_rest() -> None:
    free, bounded = latents(np.arange(500), 64), latents(np.arange(500), 64, truncation=0.5)
    assert np.abs(bounded).max() <= 0.5
    inside = np.abs(free) <= 0.5
    np.testing.assert_array_equal(bounded[inside], free[inside])
    # within a narrow bound the density is nearly flat: redrawn, not clipped to the edge
    assert (np.abs(bounded) > 0.49).mean() < 0.03


def test_each_row_has_its_own_bound_and_nan_is_none() -> None:
    z = latents([1, 1], 64, truncation=[np.nan, 0.3])
    np.testing.assert_array_equal(z[0], latents(1, 64)[0])
    np.testing.assert_array_equal(z[1], latents(1, 64, truncation=0.3)[0])
