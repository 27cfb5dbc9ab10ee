"""Aliased energy, against sinusoids whose spectrum is known."""

import numpy as np
import pytest

from stridekit.compare.aliasing import aliased_energy, spectral_energy
from stridekit.errors import ShapeError


def wave(height, width, cycles_down, cycles_across, phase=0.3):
    y, x = np.mgrid[:height, :width]
    return np.cos(2 * np.pi * (cycles_down * y / height + cycles_across * x / width) + phase)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (7, 12), (31, 5)])
def test_stride_1_aliases_exactly_nothing(size):
    noise = np.random.default_rng(0).standard_normal((3, *size))
    assert aliased_energy(noise, 1) == 0.0


@pytest.mark.parametrize("size", [(60, 60), (61, 59), (60, 61)])
@pytest.mark.parametrize("stride", [2, 3, (1, 4), (5, 1)])
@pytest.mark.parametrize("cycles", [(1, 0), (0, 3), (7, 5), (-14, 9), (2, 29), (29, -29), (20, 6)])
def test_a_sinusoid_aliases_wholly_or_not_at_all(size, stride, cycles):
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    beyond = any(2 * step * abs(c) > n for step, c, n in zip(steps, cycles, size, strict=True))
    assert aliased_energy(wave(*size, *cycles), stride) == pytest.approx(float(beyond), abs=1e-12)


def test_a_sum_of_sinusoids_aliases_by_their_squared_amplitudes():
    response = 3 * wave(64, 48, 2, 3) + 2 * wave(64, 48, 20, 1) + 1 * wave(64, 48, 1, 23)
    assert aliased_energy(response, 2) == pytest.approx((4 + 1) / 14)
    assert aliased_energy(response, (2, 1)) == pytest.approx(4 / 14)
    assert aliased_energy(response, (1, 2)) == pytest.approx(1 / 14)


def test_a_wave_on_the_limit_itself_is_carried():
    assert aliased_energy(wave(64, 64, 16, 0), 2) == pytest.approx(0, abs=1e-12)
    assert aliased_energy(wave(64, 64, 17, 0), 2) == pytest.approx(1)
    checkers = np.indices((8, 8)).sum(0) % 2
    assert aliased_energy(checkers, 1) == 0.0
    assert aliased_energy(checkers, 2) == pytest.approx(1)


def test_what_counts_as_aliased_is_what_decimation_folds_onto_another_frequency():
    low, high = wave(64, 64, 0, 5, phase=0), wave(64, 64, 0, 32 - 5, phase=0)
    np.testing.assert_allclose(low[:, ::2], high[:, ::2], atol=1e-12)
    assert aliased_energy(low, 2) == pytest.approx(0, abs=1e-12)
    assert aliased_energy(high, 2) == pytest.approx(1)


def test_white_noise_aliases_by_the_area_beyond_the_limits():
    noise = np.random.default_rng(1).standard_normal((4, 128, 128))
    assert aliased_energy(noise, 2) == pytest.approx(3 / 4, abs=0.02)
    assert aliased_energy(noise, (4, 1)) == pytest.approx(3 / 4, abs=0.02)


def test_the_mean_does_not_count_and_channels_are_summed_by_energy():
    quiet, loud = wave(32, 32, 1, 1), 3 * wave(32, 32, 15, 1)
    assert aliased_energy(np.stack([quiet + 1000, loud - 5]), 2) == pytest.approx(9 / 10)
    total, beyond = spectral_energy(np.stack([quiet, loud]), [(1, 1), (2, 2)])
    assert total[1] / total[0] == pytest.approx(9)
    np.testing.assert_allclose(beyond / total, [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3e5])
@pytest.mark.parametrize("size", [(9, 9), (37, 53)])
def test_a_flat_response_has_no_energy_to_alias(value, size):
    assert aliased_energy(np.full((2, *size), value), 3) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_share_does_not_depend_on_the_scale(scale):
    response = wave(32, 32, 1, 1) + wave(32, 32, 15, 1)
    assert aliased_energy(scale * response, 2) == pytest.approx(0.5)


def test_a_response_in_16_bits_and_its_values_are_left_as_they_are():
    response = wave(32, 32, 1, 1).astype(np.float16)
    kept = response.copy()
    assert aliased_energy(response, 2) < 1e-6
    np.testing.assert_array_equal(response, kept)


@pytest.mark.parametrize("response", [np.ones(5), np.ones((0, 4, 4)), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_a_response_without_a_spectrum_is_refused(response):
    with pytest.raises(ShapeError, match="response"):
        aliased_energy(response, 2)


def test_a_stride_below_1_is_refused():
    with pytest.raises(ShapeError, match="stride"):
        aliased_energy(np.ones((4, 4)), 0)
