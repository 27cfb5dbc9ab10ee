"""The filter bank: deterministic, of any size, and of filters that are what they are called."""

import numpy as np
import pytest

from stridekit.compare.filters import LUMA, filter_bank
from stridekit.errors import DtypeError, ShapeError


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7, 11, 32, (1, 7), (5, 1), (3, 8)])
@pytest.mark.parametrize("filters", [1, 2, 3, 4, 32, 65])
def test_any_kernel_size_and_count_gives_finite_filters_that_keep_responses_within_one(kernel_size, filters):
    rows, columns = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    bank = filter_bank(filters, kernel_size, in_channels=1, dtype="float64")
    assert bank.weight.shape == (filters, 1, rows, columns)
    assert len(bank.labels) == filters
    assert np.isfinite(bank.weight).all()
    positive = np.maximum(bank.weight, 0).sum((1, 2, 3))
    negative = np.minimum(bank.weight, 0).sum((1, 2, 3))
    np.testing.assert_allclose(positive, 1, atol=1e-12)
    assert ((abs(negative) < 1e-12) | (abs(negative + 1) < 1e-12)).all()


@pytest.mark.parametrize("kernel_size", [3, 4, 7, 11])
def test_no_two_filters_are_equal(kernel_size):
    weight = filter_bank(32, kernel_size, in_channels=1, dtype="float64").weight.reshape(32, -1)
    distances = np.abs(weight[:, None] - weight[None]).max(-1) + np.eye(32)
    assert distances.min() > 1e-3


def test_the_bank_is_the_same_every_time_and_a_larger_kernel_count_starts_with_the_same_filters():
    np.testing.assert_array_equal(filter_bank(32, 7).weight, filter_bank(32, 7).weight)
    assert filter_bank(8, 7).labels[:4] == filter_bank(32, 7).labels[:4]


def test_a_filter_of_three_channels_acts_on_rec_601_luma():
    colour, grey = filter_bank(12, 5, dtype="float64").weight, filter_bank(12, 5, in_channels=1, dtype="float64").weight
    np.testing.assert_allclose(colour.sum(1, keepdims=True), grey, atol=1e-15)
    np.testing.assert_allclose(colour[:, 1] / LUMA[1], colour[:, 2] / LUMA[2], atol=1e-15)
    assert sum(LUMA) == pytest.approx(1)


def test_sobel_of_three_taps_is_sobels_and_points_where_it_says():
    bank = filter_bank(3, 3, in_channels=1, dtype="float64")
    assert bank.labels[1:] == ("Sobel x", "Sobel y")
    sobel_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    np.testing.assert_allclose(bank.weight[1, 0], sobel_x / 4, atol=1e-15)
    np.testing.assert_allclose(bank.weight[2, 0], sobel_x.T / 4, atol=1e-15)


def test_a_gabor_answers_most_to_waves_of_its_own_direction_and_length():
    bank = filter_bank(3 + 4 * 5, 15, in_channels=1, dtype="float64")
    y, x = np.mgrid[-7:8, -7:8]
    for number, label in enumerate(bank.labels):
        if "Gabor" in label:
            angle, wavelength = (float(part.split()[-1].rstrip("°")) for part in label.removesuffix(" px").split(","))

            def answer(degrees, length, plane=bank.weight[number, 0]):
                radians = np.radians(degrees)
                phase = 2 * np.pi * (x * np.cos(radians) + y * np.sin(radians)) / length
                return abs((plane * np.exp(1j * phase)).sum())

            own = answer(angle, wavelength)
            assert own > 2 * answer(angle + 90, wavelength), label
            assert own > answer(angle, 2.5 * wavelength), label


def test_a_kernel_of_one_tap_says_that_it_only_weighs_luma():
    bank = filter_bank(5, 1, in_channels=1)
    assert set(bank.labels) == {"luma, 1 tap"}
    assert (bank.weight == 1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_bank_has_the_dtype_asked_for(dtype):
    assert filter_bank(4, 3, dtype=dtype).weight.dtype.name == dtype


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"filters": 0}, ShapeError),
        ({"filters": 2.5}, ShapeError),
        ({"kernel_size": 0}, ShapeError),
        ({"kernel_size": (3, 3, 3)}, ShapeError),
        ({"in_channels": 0}, ShapeError),
        ({"dtype": "int8"}, DtypeError),
    ],
)
def test_what_is_no_bank_is_refused_by_name(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        filter_bank(**arguments)
