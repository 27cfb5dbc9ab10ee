"""Comparing strides: each row is right, measured agrees with predicted, and the advice follows its rule."""

import json

import numpy as np
import pytest

import stridekit as sk
from stridekit.compare import choose_device, compare_strides
from stridekit.compare.advice import typical_use
from stridekit.compare.aliasing import aliased_energy
from stridekit.compare.filters import filter_bank
from stridekit.compare.images import zone_plate
from stridekit.drawing.units import format_stride
from stridekit.errors import BackendUnavailableError, DtypeError, ImageError, ShapeError

DOCUMENTED_KEYS = {
    "stride", "output_size", "time_s", "flops", "bytes", "peak_bytes", "predicted_peak_bytes", "aliased_energy",
    "dropped", "receptive_field_growth",
}  # fmt: skip


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).random((1, 3, 48, 61))
    smooth = sum(np.roll(noise, (i, j), (2, 3)) for i in range(3) for j in range(3)) / 9
    return smooth.astype(np.float32)


def compare(picture, strides=(1, 2), **options):
    return compare_strides(picture, strides, **{"filters": 4, "backend": "reference", "repeats": 2} | options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("padding", ["same", 0, ((1, 2), (0, 3))])
def test_measured_memory_is_what_was_predicted(picture, backend, dtype, padding):
    comparison = compare(picture, (1, 2, (3, 1)), backend=backend, dtype=dtype, padding=padding)
    for row in comparison.rows:
        assert row.peak_bytes == row.predicted_peak_bytes
        assert row.peak_bytes >= row.bytes


def test_each_row_says_what_the_geometry_and_the_plan_say(picture):
    for row in compare(picture, (1, 2, 9, (2, 3)), kernel_size=(5, 7), padding=1).rows:
        geometry = sk.conv_geometry((48, 61), kernel_size=(5, 7), stride=row.stride, padding=1)
        plan = sk.plan_conv((1, 3, 48, 61), (4, 3, 5, 7), stride=row.stride, padding=1, backend="reference")
        assert row.output_size == geometry.output_size
        assert row.padding == geometry.padding
        assert (row.dropped, row.unread, row.overlap) == (geometry.dropped, geometry.unread, geometry.overlap)
        assert row.phase == geometry.phase
        assert (row.flops, row.bytes) == (plan.flops, plan.bytes)
        assert row.positions_kept == np.prod(geometry.output_size) / (46 * 57)
        assert row.receptive_field_growth == (5 + 2 * row.stride[0], 7 + 2 * row.stride[1])
        assert row.receptive_field_after_stride_1 == (7, 9)
        assert row.time_quartiles_s[0] <= row.time_s <= row.time_quartiles_s[1]
        assert row.typical_use


def test_aliased_energy_is_that_of_the_response_at_stride_1(picture):
    comparison = compare(picture, (1, 2, (1, 4)), filters=5)
    response = sk.conv2d(picture, filter_bank(5, 7).weight, padding="same", backend="reference")
    for row in comparison.rows:
        assert row.aliased_energy == pytest.approx(aliased_energy(response, row.stride))
        for number, share in enumerate(row.aliased_energy_by_filter):
            assert share == pytest.approx(aliased_energy(response[:, number], row.stride))
    assert comparison.rows[0].aliased_energy == 0.0


def test_stride_1_is_the_baseline_even_if_not_asked_for(picture):
    comparison = compare(picture, (3, 2))
    assert [row.stride for row in comparison.rows] == [(3, 3), (2, 2)]
    assert comparison.baseline.stride == (1, 1)
    for row in comparison.rows:
        assert row.speedup == pytest.approx(comparison.baseline.time_s / row.time_s)


def test_the_baseline_is_the_row_of_stride_1_if_asked_for(picture):
    comparison = compare(picture, (2, 1))
    assert comparison.rows[1] is comparison.baseline
    assert comparison.baseline.speedup == 1


def test_repeated_strides_are_measured_once_and_the_order_is_kept(picture):
    assert [row.stride for row in compare(picture, (2, (2, 2), 1, 2)).rows] == [(2, 2), (1, 1)]


def test_the_json_has_the_documented_keys_and_only_plain_finite_values(picture):
    comparison = compare(picture, (1, (2, 1)), weight=np.ones((2, 3, 3, 3), np.float32))
    loaded = json.loads(comparison.to_json(), parse_constant=pytest.fail)
    assert loaded == comparison.as_dict()
    assert {"layer", "device", "rows", "recommendation", "warnings", "versions", "image"} <= loaded.keys()
    assert loaded["layer"]["kernel_size"] == [3, 3]
    assert "reference" in loaded["device"]
    for row in loaded["rows"]:
        assert row.keys() >= DOCUMENTED_KEYS
        assert len(row["stride"]) == len(row["output_size"]) == len(row["dropped"]) == 2
    assert loaded["rows"][1]["output_size"] == [24, 61]


def test_the_largest_stride_within_the_limit_is_recommended(picture):
    strides = (1, 2, (2, 1), 3)
    shares = {row.stride: row.aliased_energy for row in compare(picture, strides).rows}
    assert 0 < shares[2, 1] < shares[2, 2] < shares[3, 3]
    for limit, stride in ((0, (1, 1)), (shares[2, 1], (2, 1)), (shares[2, 2], (2, 2)), (1, (3, 3))):
        comparison = compare(picture, strides, max_aliased_energy=limit)
        assert comparison.recommended_stride == stride
        assert comparison.recommendation.startswith(f"Take stride {format_stride(stride)}: ")
    assert "No larger stride" in comparison.recommendation


def test_the_recommendation_has_the_numbers_of_the_chosen_and_of_the_next_stride(picture):
    comparison = compare(picture, (1, 2, 3), max_aliased_energy=0.9 * compare(picture, (3,)).rows[0].aliased_energy)
    _, chosen, following = comparison.rows
    assert comparison.recommendation.startswith("Take stride 2: ")
    assert f"{100 * chosen.aliased_energy:.1f} %" in comparison.recommendation
    assert "The next, stride 3," in comparison.recommendation
    assert f"{100 * following.aliased_energy:.1f} %" in comparison.recommendation


def test_a_stride_that_leaves_gaps_is_never_recommended_and_warned_of(picture):
    comparison = compare(picture, (2, 3), kernel_size=2, max_aliased_energy=1, padding="valid")
    assert comparison.recommended_stride == (2, 2)
    assert "leaves gaps: 16 rows and 21 columns are never read" in comparison.recommendation
    assert any("stride 3 is larger than the kernel's 2 pixels" in warning for warning in comparison.warnings)


def test_dropped_pixels_and_flat_responses_are_warned_of():
    comparison = compare(np.full((8, 9), 0.5), kernel_size=3, padding="valid", strides=(1, 2))
    assert any("stride 2 drops 1 row at the end" in warning for warning in comparison.warnings)
    assert any("flat" in warning for warning in comparison.warnings)


def test_auto_repeats_stay_between_their_bounds(picture):
    seen = []
    comparison = compare(picture, repeats=None, progress=lambda *step: seen.append(step))
    assert 5 <= comparison.repeats <= 50
    assert seen[-1] == ("timing", comparison.repeats, comparison.repeats)
    assert all(0 <= done <= of for _, done, of in seen)


def test_arrays_are_left_as_they_are_whatever_their_memory(picture):
    transposed = np.asfortranarray(picture[:, :, ::-1])
    transposed.flags.writeable = False
    kept = transposed.copy()
    compare(transposed, dtype="float64")
    np.testing.assert_array_equal(transposed, kept)
    assert compare(picture[0, 0]).layer["input_shape"] == [1, 1, 48, 61]


def test_an_array_that_may_have_its_channels_last_is_refused_with_the_cure(picture):
    last = picture.transpose(0, 2, 3, 1)
    for image in (last, last[..., :1], np.concatenate([last, last[..., :1]], 3)):
        with pytest.raises(ShapeError, match=r"image has shape .*image\.transpose\(0, 3, 1, 2\)"):
            compare(image)
    for image in (last[0], picture[0]):
        with pytest.raises(ShapeError, match=r"image has shape .*image\[None\]"):
            compare(image)
    assert compare(last.transpose(0, 3, 1, 2)).image["channels"] == 3
    # Weights say how many channels there are; pictures of three columns are pictures.
    weighted = compare(last, (1,), weight=np.ones((1, 48, 1, 1), np.float32))
    assert (weighted.image["channels"], weighted.image["size"]) == (48, [61, 3])
    assert compare(picture[..., :3], (1,), kernel_size=3).image["size"] == [48, 3]


def test_a_batch_and_one_pixel_and_one_filter_work(picture):
    assert compare(np.concatenate([picture, 0 * picture])).image["batch"] == 2
    assert compare(np.ones((1, 1), np.float32), (1, 2), filters=1).rows[1].output_size == (1, 1)


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"strides": ()}, ShapeError, "strides"),
        ({"strides": (0,)}, ShapeError, "stride"),
        ({"strides": "12"}, ShapeError, "strides"),
        ({"strides": (1, 2.0)}, ShapeError, "stride"),
        ({"strides": ((1, 2, 3),)}, ShapeError, "stride"),
        ({"filters": 0}, ShapeError, "filters"),
        ({"kernel_size": 99, "padding": 0}, ShapeError, "kernel_size"),
        ({"padding": -1}, ShapeError, "padding"),
        ({"padding": "some"}, ShapeError, "padding"),
        ({"dtype": "float99"}, DtypeError, "dtype"),
        ({"dtype": "int32"}, DtypeError, "dtype"),
        ({"repeats": 0}, ShapeError, "repeats"),
        ({"max_aliased_energy": 1.5}, ShapeError, "max_aliased_energy"),
        ({"max_aliased_energy": float("nan")}, ShapeError, "max_aliased_energy"),
        ({"backend": "tpu"}, BackendUnavailableError, "tpu"),
        ({"weight": np.ones((2, 1, 3, 3), np.float32)}, ShapeError, "weight"),
        ({"weight": np.ones((3, 3), np.float32)}, ShapeError, "weight"),
        ({"weight": np.ones((2, 3, 3, 3), int)}, DtypeError, "weight"),
        ({"weight": np.full((2, 3, 3, 3), np.nan)}, ShapeError, "weight"),
        ({"weight": np.full((2, 3, 3, 3), 60000.0), "dtype": "float16"}, DtypeError, "float16"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(picture, options, error, names):
    with pytest.raises(error, match=names):
        compare(picture, **options)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.ones((4, 4, 3), np.float32), ShapeError),
        (np.ones((4, 4), np.uint8), DtypeError),
        (np.ones((1, 0, 4, 4), np.float32), ShapeError),
        (np.full((4, 4), np.inf, np.float32), ImageError),
        ([[1.0]], DtypeError),
    ],
)
def test_an_array_that_is_no_picture_is_refused_by_name(image, error):
    with pytest.raises(error, match="image"):
        compare(image)


def test_the_backend_is_the_one_of_the_argument_then_the_scope_then_the_environment(monkeypatch):
    monkeypatch.setenv("STRIDEKIT_BACKEND", "reference")
    assert choose_device().backend == "reference"
    assert "STRIDEKIT_BACKEND" in choose_device().why
    assert choose_device("cpu").backend == "cpu"
    with sk.use_backend("cpu"):
        assert choose_device().backend == "cpu"
    monkeypatch.delenv("STRIDEKIT_BACKEND")
    assert choose_device().backend in ("cuda", "cpu")


def test_saving_writes_the_json_and_a_picture_for_each_stride(tmp_path):
    comparison = compare(zone_plate(40), ((2, 1), 3), filters=2)
    folder = tmp_path / "new" / "folder"
    written = comparison.save(folder)
    assert sorted(path.name for path in written) == [
        "comparison.json", "costs.png", "feature-maps-stride-2x1.png", "feature-maps-stride-3.png", "feature-maps.png",
    ]  # fmt: skip
    assert sorted(folder.iterdir()) == sorted(written)
    assert json.loads(written[0].read_text(encoding="utf-8")) == comparison.as_dict()
    for path in written[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_saving_that_fails_leaves_nothing(tmp_path, monkeypatch):
    comparison = compare(zone_plate(40), (2,), filters=2)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        comparison.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (6, 6), (7, 7), (9, 9), (16, 16), (2, 1), (3, 8), (500, 500)])
def test_every_stride_has_a_typical_use_with_a_number(stride):
    use = typical_use(stride, (7, 7))
    assert len(use) > 20
    assert stride in ((1, 1), (2, 1)) or any(character.isdigit() for character in use)
