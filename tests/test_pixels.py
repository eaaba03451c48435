"""What is made of every kind of samples that a file can hold, and what is refused by name."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.folders import DataError
from utils.images import open_image

GREY = np.tile(np.array([0, 1, 64, 128, 200, 255], np.uint8), (4, 2))
COLOURS = np.stack([GREY, 255 - GREY, GREY[:, ::-1]], axis=2)
ONLY_GREY = np.repeat(GREY[..., None], 3, axis=2)
DEEP, DEEP_COLOURS = (each.astype(np.uint16) * 257 for each in (GREY, COLOURS))
RGB = Image.fromarray(COLOURS)


def transparent(image, mode):
    image = image.convert(mode)
    image.putalpha(Image.fromarray(GREY))
    return image


def palette(transparency=None):
    image = RGB.quantize(16)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def lab():
    return ImageCms.profileToProfile(
        RGB, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


SAVED = {  # by Pillow: the image, the file's ending, the mode it is read in, what is made of it
    "1": (Image.fromarray(GREY > 99), "png", "1", (ONLY_GREY > 99) * 255),
    "L": (Image.fromarray(GREY), "png", "L", ONLY_GREY),
    "L, JPEG": (Image.fromarray(GREY), "jpg", "L", ONLY_GREY),
    "LA": (transparent(RGB, "LA"), "png", "LA", np.asarray(RGB.convert("L").convert("RGB"))),
    "P": (palette(), "png", "P", COLOURS),
    "P, GIF": (palette(3), "gif", "P", COLOURS),
    "P, a transparent colour": (palette(3), "png", "P", COLOURS),
    "P, transparent colours": (palette(bytes(range(0, 160, 10))), "png", "P", COLOURS),
    "PA": (transparent(palette(), "PA"), "tif", "PA", COLOURS),
    "RGB": (RGB, "bmp", "RGB", COLOURS),
    "RGBA": (transparent(RGB, "RGBA"), "png", "RGBA", COLOURS),
    "RGBA, WebP": (transparent(RGB, "RGBA"), "webp", "RGBA", COLOURS),
    "CMYK": (RGB.convert("CMYK"), "tif", "CMYK", COLOURS),
    "CMYK, JPEG": (RGB.convert("CMYK"), "jpg", "CMYK", COLOURS),
    "YCbCr": (RGB.convert("YCbCr"), "tif", "YCbCr", COLOURS),
    "LAB": (lab(), "tif", "LAB", COLOURS),
    "I;16": (Image.fromarray(DEEP), "png", "I;16", ONLY_GREY),
    "I;16B": (Image.frombytes("I;16B", (12, 4), DEEP.astype(">u2").tobytes()), "tif", "I;16B",
              ONLY_GREY),
    "I": (Image.fromarray(DEEP.astype(np.int32)), "ppm", "I", ONLY_GREY),
}  # fmt: skip
LOSSLESS = {"lossless": True, "exact": True, "quality": 100, "subsampling": 0}
NEAR = {"YCbCr": 3, "LAB": 33, "CMYK, JPEG": 1}  # levels: the colour spaces round, and clip


@pytest.mark.parametrize("kind", SAVED)
def test_what_is_made_of_every_mode(kind, tmp_path, recwarn):
    image, ending, mode, expected = SAVED[kind]
    path = str(tmp_path / f"image.{ending}")
    image.save(path, **(LOSSLESS if ending in ("jpg", "webp") else {}))
    with Image.open(path) as read:
        assert read.mode == mode
    found = np.asarray(open_image(path)).astype(int)
    assert np.abs(found - expected).max() <= NEAR.get(kind, 0)
    assert not recwarn.list


def write_tiff(path, pixels, order="<", kind=1, colours=None, extra=None, **tags):
    """Write `(H, W)` or `(H, W, samples)` as they are, whatever anyone can read of them."""
    height, width, samples = (*pixels.shape, 1)[:3]
    directory = ImageFileDirectory_v2(prefix=b"II" if order == "<" else b"MM")
    directory[256], directory[257], directory[277], directory[278] = width, height, samples, height
    directory[258], directory[259] = (pixels.dtype.itemsize * 8,) * samples, 1
    directory[262] = (2 if samples > 2 else 1) if colours is None else colours
    directory[273], directory[279], directory[339] = 0, pixels.nbytes, (kind,) * samples
    if extra is not None:
        directory[338] = extra
    for tag, value in tags.items():
        directory[int(tag.removeprefix("tag"))] = value
    file = io.BytesIO()
    directory.save(file)  # which adds to the 0 where it ends
    path.write_bytes(file.getvalue() + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())


UNSIGNED, SIGNED, FLOAT = 1, 2, 3
OPAQUE = np.full((4, 12, 1), 65_535, np.uint16)
ALL_12_BITS = np.tile(np.array([0x00, 0x0F, 0xFF], np.uint8), (4, 1))  # 0, 4095; two in three bytes
HALF = np.full_like(GREY, 128)

# Of 8 bits and more, in both byte orders: pixels, how they are described, what is made of them.
TIFFS = {
    "8 bits": (GREY, {}, ONLY_GREY),
    "8 bits, white is 0": (GREY, {"colours": 0}, 255 - ONLY_GREY),
    "16 bits": (DEEP, {}, ONLY_GREY),
    "3 x 8 bits": (COLOURS, {}, COLOURS),
    "3 x 16 bits": (DEEP_COLOURS, {}, COLOURS),
    "4 x 16 bits, transparent": (np.dstack([DEEP_COLOURS, OPAQUE]), {"extra": 2}, COLOURS),
    "4 x 16 bits, something else": (np.dstack([DEEP_COLOURS, DEEP]), {"extra": 0}, COLOURS),
    "2 x 8 bits, multiplied by alpha": (
        np.dstack([HALF, np.full_like(HALF, 255)]), {"extra": 1}, np.full_like(COLOURS, 128)
    ),
    "12 bits": (ALL_12_BITS, {"tag258": (12,), "tag256": 2}, {
        "<": np.tile(np.array([[0] * 3, [255] * 3], np.uint8), (4, 1, 1)),
        ">": "is a TIFF of a kind that is not known (1 samples of 12 bits"}),
    "16 bits, white is 0": (DEEP, {"colours": 0}, {
        "<": 255 - ONLY_GREY, ">": "is a TIFF of a kind that is not known (1 samples of 16 bits"}),
    "2 x 16 bits": (np.dstack([DEEP, DEEP]), {"extra": 2},
                    "is a TIFF of a kind that is not known (2 samples of 16 bits"),
    "3 x 16 bits in planes": (DEEP_COLOURS, {"tag284": 2}, "is a TIFF of 16 bits in separate plan"),
    "signed, 8 bits": (GREY.view(np.int8), {"kind": SIGNED}, "has 8-bit signed pixels, which have"),
    "signed, 16 bits": (DEEP.view(np.int16), {"kind": SIGNED}, "has 16-bit signed pixels, which"),
    "signed, 32 bits": (GREY.astype(np.int32), {"kind": SIGNED}, "has 32-bit signed pixels, which"),
    "signed, 3 x 16 bits": (DEEP_COLOURS, {"kind": SIGNED}, "has 16-bit signed pixels, which have"),
    "32 bits": (DEEP.astype(np.uint32), {}, "has 32-bit pixels, which have no known range; save "),
    "3 x 32 bits": (DEEP_COLOURS.astype(np.uint32), {}, "has 32-bit pixels, which have no known "),
    "float, 16 bits": (GREY.astype(np.float16), {"kind": FLOAT}, "has 16-bit floating-point pixel"),
    "float, 32 bits": (GREY / np.float32(255), {"kind": FLOAT}, "has 32-bit floating-point pixels"),
    "float, 64 bits": (GREY / 255, {"kind": FLOAT}, "has 64-bit floating-point pixels, which have"),
    "float, 3 x 32 bits": (COLOURS / np.float32(255), {"kind": FLOAT}, "has 32-bit floating-point"),
}  # fmt: skip


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TIFFS)
def test_what_is_made_of_every_tiff(kind, order, tmp_path):
    pixels, how, expected = TIFFS[kind]
    if isinstance(expected, dict):
        expected = expected[order]
    write_tiff(tmp_path / "image.tif", pixels, order, **how)
    if not isinstance(expected, str):
        np.testing.assert_array_equal(np.asarray(open_image(str(tmp_path / "image.tif"))), expected)
        return
    with pytest.raises(DataError) as caught:
        open_image(str(tmp_path / "image.tif"))
    assert str(caught.value).startswith(f"{tmp_path / 'image.tif'} {expected}")
    assert "; save it " in str(caught.value)
    assert "good copy" not in str(caught.value)


def test_numbers_in_a_netpbm_file_that_have_no_range_are_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"Pf\n4 1\n-1.0\n" + np.linspace(0, 1, 4, "f4").tobytes())
    with pytest.raises(DataError, match=r"a\.ppm has 32-bit floating-point pixels"):
        open_image(str(tmp_path / "a.ppm"))


@pytest.mark.parametrize("depth", [8, 12])
@pytest.mark.parametrize("pixels", [DEEP, DEEP_COLOURS], ids=["grey", "colours"])
@pytest.mark.parametrize("order", "<>")
def test_16_bits_that_hold_fewer_are_not_made_black(order, pixels, depth, tmp_path):
    write_tiff(tmp_path / "image.tif", pixels >> 16 - depth, order)
    with pytest.raises(DataError, match=r"image\.tif has 16-bit pixels that use the lowest 12 bit"):
        open_image(str(tmp_path / "image.tif"))


def test_a_picture_in_the_transparency_alone_is_refused(tmp_path):
    """Such as a black icon on nothing: it would be black on black."""
    for mode, ending in (("LA", "png"), ("RGBA", "png"), ("RGBA", "webp")):
        path = tmp_path / f"{mode}.{ending}"
        transparent(Image.new("L", (12, 4), 0), mode).save(path, **LOSSLESS)
        with pytest.raises(DataError, match=r"of a single colour but for its transparency.*; save"):
            open_image(str(path))
    transparent(RGB, "RGBA").save(path, **LOSSLESS)
    assert open_image(str(path)).mode == "RGB"
    plain = Image.new("RGBA", (12, 4), (9, 9, 9, 70))
    plain.save(path, **LOSSLESS)
    assert np.asarray(open_image(str(path))).tolist() == [[[9] * 3] * 12] * 4
