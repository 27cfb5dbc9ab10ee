"""Ways to shrink by a stride: each row is what the operators say, and measured agrees with predicted."""

import json

import numpy as np
import pytest

import stridekit as sk
from stridekit.compare import compare_strides
from stridekit.compare.aliasing import aliased_energy
from stridekit.compare.comparison import ALTERNATIVES
from stridekit.compare.filters import filter_bank
from stridekit.compare.poolings import ResponsePooling, blur_window
from stridekit.errors import ShapeError


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).random((1, 3, 26, 33))
    return sum(np.roll(noise, (i, j), (2, 3)) for i in range(2) for j in range(2)).astype(np.float32) / 4


def compare(picture, strides=(1, 2, 3), **options):
    quick = {"filters": 3, "kernel_size": 3, "backend": "reference", "repeats": 1, "alternatives": ALTERNATIVES}
    return compare_strides(picture, strides, **quick | options)


def pooling(name, stride, response, backend="reference"):
    device = sk.plan_conv((1, 1, 4, 4), (1, 1, 3, 3), backend=backend).device
    return ResponsePooling(name, stride, response.shape, str(response.dtype), backend, device)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("padding", ["same", ((1, 2), (0, 3))])
def test_measured_memory_is_what_was_predicted(picture, backend, dtype, padding):
    comparison = compare(picture, (2, (3, 1), 7), backend=backend, dtype=dtype, padding=padding, backward=True)
    assert len(comparison.alternatives) == 12
    for row in comparison.alternatives:
        assert row.forward.peak_bytes == row.forward.predicted_peak_bytes
        assert row.training.peak_bytes == row.training.predicted_peak_bytes


@pytest.mark.parametrize("padding", ["same", "valid", 2])
def test_all_ways_give_the_size_of_the_strided_convolution(picture, padding):
    comparison = compare(picture, (2, 3, (2, 1), 5, 50), padding=padding)
    sizes = {row.stride: row.output_size for row in comparison.rows}
    assert [(row.stride, row.alternative) for row in comparison.alternatives] == [
        (stride, alternative) for stride in sizes for alternative in ALTERNATIVES
    ]
    for row in comparison.alternatives:
        assert row.output_size == sizes[row.stride]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ALTERNATIVES[1:])
@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (4, 7)])
def test_pooled_densely_every_stride_th_value_is_that_of_the_pooling(name, stride, backend):
    response = np.random.default_rng(1).standard_normal((2, 3, 13, 17), np.float32)
    by = pooling(name, stride, response, backend)
    pooled, dense = by.forward(response), by.densely(response)
    assert dense.shape == response.shape
    assert pooled.shape == by.output_shape
    np.testing.assert_allclose(dense[..., :: stride[0], :: stride[1]], pooled, rtol=1e-6, atol=1e-7)


def test_the_strided_convolution_is_the_stride_s_own_row(picture):
    comparison = compare(picture, (1, 2, 3))
    for row, alone in zip(comparison.rows[1:], comparison.alternatives[::4], strict=True):
        assert alone.alternative == "conv"
        assert (alone.stride, alone.output_size, alone.window) == (row.stride, row.output_size, (1, 1))
        assert (alone.aliased_energy, alone.energy_kept) == (row.aliased_energy, 1.0)
        assert (alone.forward.flops, alone.forward.peak_bytes) == (row.flops, row.peak_bytes)


def test_aliased_energy_is_that_of_the_response_pooled_at_stride_1(picture):
    comparison = compare(picture, (2, (1, 3)))
    response = sk.conv2d(picture, filter_bank(3, 3).weight, padding="same", backend="reference")
    centred = response - response.mean((2, 3), keepdims=True)
    for row in comparison.alternatives:
        if row.alternative != "conv":
            dense = pooling(row.alternative, row.stride, response).densely(response)
            assert row.aliased_energy == pytest.approx(aliased_energy(dense, row.stride))
            varying = dense - dense.mean((2, 3), keepdims=True)
            assert row.energy_kept == pytest.approx(np.square(varying).sum() / np.square(centred).sum(), rel=1e-5)


@pytest.mark.parametrize("stride", [2, 4])
def test_on_a_fine_grating_over_a_coarse_one_blurring_aliases_least_and_the_stride_alone_most(stride):
    _, x = np.mgrid[:64, :64]
    # Waves of 64 and, beyond the limit of either stride, of 64 / 25 pixels, which mirror into themselves.
    grating = np.cos(2 * np.pi * (x + 0.5) / 64) + np.cos(2 * np.pi * 25 * (x + 0.5) / 64)
    identity = np.ones((1, 1, 1, 1))
    rows = compare(grating, (stride,), weight=identity, kernel_size=1, dtype="float64").alternatives
    alone, _, averaged, blurred = rows
    assert alone.aliased_energy == pytest.approx(0.5)
    assert blurred.aliased_energy < averaged.aliased_energy < alone.aliased_energy
    assert blurred.energy_kept * blurred.aliased_energy < 0.05


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_a_pooling_cancels_wholly_has_nothing_to_alias(dtype):
    checkers = np.indices((16, 16)).sum(0) % 2 * 0.7
    rows = compare(checkers, (2,), weight=np.ones((1, 1, 1, 1)), dtype=dtype, alternatives=("conv", "blur_pool"))
    assert [row.aliased_energy for row in rows.alternatives] == [pytest.approx(1), 0.0]
    assert rows.alternatives[1].energy_kept < 1e-5


def test_flops_are_those_of_the_convolution_and_the_windows(picture):
    comparison = compare(picture, (2,), backward=True)
    strided, dense = (2 * 27 * 3 * pixels for pixels in (13 * 17, 26 * 33))
    outputs = 3 * 13 * 17
    pooling = {"conv": 0, "max_pool": 4 * outputs, "avg_pool": 4 * outputs, "blur_pool": 2 * 9 * outputs}
    for row in comparison.alternatives:
        conv = strided if row.alternative == "conv" else dense
        assert row.forward.flops == pytest.approx(conv + pooling[row.alternative], rel=0.05)
        assert row.training.flops == pytest.approx(3 * conv + 2 * pooling[row.alternative], rel=0.05)


def test_the_windows_are_the_strides_and_the_blur_halves_the_limit(picture):
    windows = {(row.stride, row.alternative): row.window for row in compare(picture, ((2, 3), 50)).alternatives}
    assert windows[(2, 3), "max_pool"] == windows[(2, 3), "avg_pool"] == (2, 3)
    assert windows[(2, 3), "blur_pool"] == (5, 5)
    assert windows[(50, 50), "blur_pool"] == (51, 51)  # 26 rows can be mirrored 25 times.
    assert blur_window(1) == 1
    for stride in range(2, 12):
        assert 0.4 < np.cos(np.pi / (2 * stride)) ** (blur_window(stride) - 1) < 0.75


def test_the_gradient_of_each_pooling_is_that_of_its_forward():
    rng = np.random.default_rng(2)
    response = rng.standard_normal((1, 2, 7, 9))
    step = 1e-6 * rng.standard_normal(response.shape)
    for name in ALTERNATIVES[1:]:
        by = pooling(name, (2, 3), response)
        grad = rng.standard_normal(by.output_shape)
        along = (by.gradient(response, grad) * step).sum()
        change = by.forward(response + step) - by.forward(response - step)
        assert along == pytest.approx((grad * change).sum() / 2, rel=1e-5, abs=1e-12)


def test_training_is_measured_only_when_asked_and_costs_more(picture):
    for row in compare(picture, (2,)).alternatives:
        assert row.training is None
    for row in compare(picture, (2,), backward=True).alternatives:
        assert row.training.time_quartiles_s[0] <= row.training.time_s <= row.training.time_quartiles_s[1]
        assert row.training.flops > 2 * row.forward.flops


def test_nothing_is_compared_by_default_nor_at_stride_1_and_backward_alone_is_of_the_strides(picture):
    assert compare(picture, alternatives=()).alternatives == ()
    assert compare(picture, (1,)).alternatives == ()
    alone = compare(picture, (1, 2, 3), alternatives=(), backward=True).alternatives
    assert [(row.stride, row.alternative) for row in alone] == [((2, 2), "conv"), ((3, 3), "conv")]
    assert all(row.training for row in alone)


def test_the_json_holds_plain_finite_values(picture):
    comparison = compare(picture, (2,), alternatives=("avg_pool", "avg_pool", "conv"), backward=True)
    loaded = json.loads(comparison.to_json(), parse_constant=pytest.fail)
    assert loaded == comparison.as_dict()
    first, second = loaded["alternatives"]
    assert (first["alternative"], second["alternative"]) == ("avg_pool", "conv")
    assert first["output_size"] == [13, 17]
    assert (
        {"flops", "time_s", "peak_bytes", "predicted_peak_bytes"} <= first["forward"].keys() == first["training"].keys()
    )
    assert loaded["alternatives_repeats"] == 1


def test_a_batch_one_pixel_and_a_flat_response_work(picture):
    batch = np.concatenate([picture, picture[:, :, ::-1]])
    assert len(compare(batch, (2,), backward=True).alternatives) == 4
    for tiny in (np.ones((1, 1), np.float32), np.full((5, 4), 0.5)):
        for row in compare(tiny, (2,), backward=True, padding=1, filters=1).alternatives:
            assert 0 <= row.aliased_energy <= 1


@pytest.mark.parametrize("alternatives", ["conv", ("conv", "min_pool"), 3, (2,), None])
def test_unknown_alternatives_are_refused_by_name(picture, alternatives):
    with pytest.raises(ShapeError, match="alternatives"):
        compare(picture, alternatives=alternatives)


def test_saving_draws_them_and_a_later_comparison_without_them_clears_the_picture(picture, tmp_path):
    written = compare(picture, (2,), backward=True).save(tmp_path)
    drawn = tmp_path / "alternatives.png"
    assert drawn in written
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert drawn not in compare(picture, (2,), alternatives=()).save(tmp_path)
    assert not drawn.exists()
