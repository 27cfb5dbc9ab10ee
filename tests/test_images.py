"""Pictures of every kind become (1, C, H, W) in [0, 1], and what is no picture is refused by name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stridekit.compare.images import load_image, sample_photo, zone_plate
from stridekit.errors import ImageError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [51, 102, 204]]], np.uint8)


def save(picture, path, **options):
    picture.save(path, **options)
    return path


def test_an_rgb_picture_keeps_its_values_and_orientation(tmp_path):
    pixels = load_image(save(Image.fromarray(RGB), tmp_path / "a.png"))
    assert pixels.shape == (1, 3, 2, 3)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), RGB / 255, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_picture_comes_in_the_dtype_asked_for(tmp_path, dtype):
    assert load_image(save(Image.fromarray(RGB), tmp_path / "a.png"), dtype=dtype).dtype.name == dtype


def test_grey_of_1_8_and_16_bits_and_float_is_one_channel(tmp_path):
    grey = np.array([[0, 51], [102, 255]], np.uint8)
    pictures = {
        "8.png": Image.fromarray(grey),
        "16.png": Image.fromarray((grey * 257.0).astype(np.uint16)),
        "float.tiff": Image.fromarray((grey / 255).astype(np.float32)),
    }
    for name, picture in pictures.items():
        pixels = load_image(save(picture, tmp_path / name))
        assert pixels.shape == (1, 1, 2, 2), name
        np.testing.assert_allclose(pixels[0, 0], grey / 255, atol=1e-6, err_msg=name)
    bits = load_image(save(Image.fromarray(grey > 100), tmp_path / "1.png"))
    assert bits.tolist() == [[[[0.0, 0.0], [1.0, 1.0]]]]


def test_a_palette_becomes_rgb(tmp_path):
    pixels = load_image(save(Image.fromarray(RGB).quantize(8), tmp_path / "p.gif"))
    assert pixels.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), RGB / 255, atol=0.05)


def test_transparency_lies_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 51, 255
    pixels = load_image(save(Image.fromarray(rgba), tmp_path / "a.png"))
    np.testing.assert_allclose(pixels[0, :, 0], [[1, 0.8, 0]] * 3, atol=0.005)
    grey = Image.fromarray(rgba).convert("LA")
    assert load_image(save(grey, tmp_path / "la.png")).shape == (1, 1, 1, 3)
    palette = Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P")
    assert load_image(save(palette, tmp_path / "p.png", transparency=0)).min() == 1


def png(bits, colour, row, width, transparent=None):
    """Write a PNG file of one row by hand: Pillow writes no grey of 2 or 4 bits, and no RGB of 16."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    content = chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + clear + content


GREY, COLOUR, GREY_ALPHA = 0, 2, 4


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (png(1, GREY, b"\x55", 8, [0]), [[1] * 8]),
        (png(1, GREY, b"\x55", 8, [1]), [[0, 1] * 4]),
        (png(2, GREY, b"\x1b", 4, [1]), [[0, 1, 2 / 3, 1]]),
        (png(4, GREY, b"\x37", 2, [3]), [[1, 7 / 15]]),
        (png(8, GREY, b"\x33\x00", 2, [51]), [[1, 0]]),
        (png(16, GREY, struct.pack(">3H", 0, 0x1234, 0x1235), 3, [0x1234]), [[0, 1, 0x1235 / 65535]]),
        (png(16, GREY, struct.pack(">2H", 0, 65535), 2, [0]), [[1, 1]]),
        (png(8, COLOUR, bytes([1, 2, 3, 1, 2, 51]), 2, [1, 2, 3]), [[1, 1 / 255], [1, 2 / 255], [1, 0.2]]),
        (png(16, COLOUR, struct.pack(">6H", 258, 515, 772, 0, 0, 65535), 2, [258, 515, 772]), [[1, 0], [1, 0], [1, 1]]),
        (png(16, GREY_ALPHA, struct.pack(">4H", 0, 0, 0, 65535), 2), [[1, 0]]),
    ],
)
def test_a_transparent_value_lies_over_white_however_many_bits_hold_it(tmp_path, file, wanted):
    (tmp_path / "a.png").write_bytes(file)
    pixels = load_image(tmp_path / "a.png")
    np.testing.assert_allclose(pixels[0, :, 0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("I;16", "png"),
        ("PA", "tiff"), ("CMYK", "tiff"), ("YCbCr", "tiff"), ("LAB", "tiff"), ("I", "tiff"), ("I;16", "tiff"),
        ("I;16B", "tiff"), ("F", "tiff"), ("P", "gif"), ("RGBA", "webp"), ("CMYK", "jpeg"), ("RGBX", "tiff"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_every_mode_is_read_turned_or_not(tmp_path, mode, suffix, turned):
    picture = Image.new(mode, (3, 2))
    if mode.startswith("I"):
        picture.putpixel((0, 0), 65535)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if turned and suffix != "gif" else {}
    pixels = load_image(save(picture, tmp_path / f"a.{suffix}", **options))
    grey = mode in ("1", "L", "LA", "F") or mode.startswith("I")
    assert pixels.shape == (1, 1 if grey else 3, *((3, 2) if options else (2, 3)))
    assert 0 <= pixels.min() <= pixels.max() <= 1
    if mode.startswith("I"):
        assert (pixels == 1).sum() == 1
    if mode in ("LA", "PA", "RGBA"):
        assert (pixels == 1).all(), "wholly transparent"


def test_the_first_of_several_frames_is_taken_with_its_transparency(tmp_path):
    frames = [Image.fromarray(np.full((2, 2), value, np.uint8)).convert("P") for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=0)
    assert (load_image(tmp_path / "a.gif") == 1).all()


def test_the_rotation_noted_by_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = load_image(save(Image.fromarray(RGB), tmp_path / "a.png", exif=exif))
    assert pixels.shape == (1, 3, 3, 2)
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), np.rot90(RGB, -1) / 255, atol=1e-7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_uncompressed_tiff_is_turned_once(tmp_path, orientation):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = [grey, grey[:, ::-1], grey[::-1, ::-1], grey[::-1], grey.T, np.rot90(grey, -1), grey[::-1, ::-1].T,
              np.rot90(grey)][orientation - 1]  # fmt: skip
    for name, options in (("a.tiff", {}), ("b.tiff", {"compression": "tiff_lzw"}), ("c.png", {})):
        pixels = load_image(save(Image.fromarray(grey), tmp_path / name, exif=exif, **options))
        np.testing.assert_allclose(pixels[0, 0] * 255, turned, atol=1e-5, err_msg=name)


def test_other_colour_spaces_become_rgb(tmp_path):
    assert load_image(save(Image.fromarray(RGB).convert("CMYK"), tmp_path / "a.tiff")).shape == (1, 3, 2, 3)


def test_what_is_no_picture_is_refused_in_words_that_name_it(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    save(Image.fromarray(noise), tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    save(Image.fromarray(np.full((2, 2), 7.0, np.float32)), tmp_path / "range.tiff")
    save(Image.fromarray(np.full((2, 2), np.nan, np.float32)), tmp_path / "nan.tiff")
    save(Image.fromarray(np.full((2, 2), 70000, np.int32)), tmp_path / "wide.tiff")
    for name in ("none.png", "text.jpg", "empty.png", "cut.png", "range.tiff", "nan.tiff", "wide.tiff", "."):
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value), name


def test_the_sample_photo_is_there():
    photo = sample_photo()
    assert photo.shape == (1, 3, 600, 512)
    assert photo.min() >= 0
    assert photo.max() <= 1
    assert photo.std() > 0.1


@pytest.mark.parametrize("size", [1, 64, 65, (33, 128)])
def test_the_zone_plate_is_symmetric_and_in_range(size):
    plate = zone_plate(size, dtype="float64")
    rows, columns = size if isinstance(size, tuple) else (size, size)
    assert plate.shape == (1, 1, rows, columns)
    np.testing.assert_allclose(plate, plate[..., ::-1, ::-1], atol=1e-12)
    assert 0 <= plate.min() <= plate.max() <= 1


def test_the_zone_plate_reaches_the_grids_limit_at_the_edge():
    line = zone_plate((1, 512), dtype="float64")[0, 0, 0] - 0.5
    flips = np.sign(line[:-1]) != np.sign(line[1:])
    assert flips[-16:].mean() > 0.9
    assert flips[256 - 8 : 256 + 8].mean() < 0.1
