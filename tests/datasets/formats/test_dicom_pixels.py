"""What pydicom makes of stored values, and what is refused instead of being read as another picture."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from dicom_layouts import enhanced_dataset, group, header, random_cine, save
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from monai_iln.datasets.formats.dicom import NotASliceError, read_frames
from monai_iln.datasets.formats.dicom_pixels import read_each, read_pixels
from monai_iln.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 4096, (6, 8), dtype=np.uint16)


def read(dataset, path):
    (frame,) = read_frames(save(dataset, path))
    return read_pixels(frame)


def lut():
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.ModalityLUTType = "US"
    table.LUTData = (np.arange(4096, dtype=np.uint16)[::-1] * 2).tobytes()
    table["LUTData"].VR = "OW"
    return [table]


SIGNED = {"PixelRepresentation": 1}
CASES = {
    "as stored": ({}, VALUES),
    "less is brighter": ({"PhotometricInterpretation": "MONOCHROME1"}, 4095 - VALUES.astype(int)),
    "slope and intercept": ({"RescaleSlope": "2", "RescaleIntercept": "-7"}, 2.0 * VALUES - 7),
    "both": (
        {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "2", "RescaleIntercept": "-7"},
        2.0 * (4095 - VALUES.astype(int)) - 7,
    ),
    "a table": ({"ModalityLUTSequence": lut()}, 2 * (4095 - VALUES.astype(int))),
    "signed": (SIGNED, VALUES.astype(int) - 4096 * (VALUES > 2047)),
    "signed, less is brighter": (
        SIGNED | {"PhotometricInterpretation": "MONOCHROME1"},
        -1 - (VALUES.astype(int) - 4096 * (VALUES > 2047)),
    ),
}


@pytest.mark.parametrize(("elements", "expected"), CASES.values(), ids=CASES)
def test_what_stored_values_mean(elements, expected, tmp_path):
    np.testing.assert_array_equal(read(header(VALUES, **elements), tmp_path / "x.dcm"), expected)
    overlay = VALUES | 0xA000  # unused bits hold what they like
    np.testing.assert_array_equal(read(header(overlay, **elements), tmp_path / "y.dcm"), expected)


def test_other_sizes_of_a_pixel(tmp_path):
    for bits, dtype in ((8, np.uint8), (32, np.uint32)):
        values = VALUES[:, :7].astype(dtype)  # an odd number of bytes is padded
        elements = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        np.testing.assert_array_equal(read(header(values, **elements), tmp_path / "x.dcm"), values)


def test_slopes_of_single_frames(tmp_path):
    cine = random_cine()
    dataset = enhanced_dataset(cine, [(0, 0), (1, 0), (2, 0)])
    for number, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        item.PixelValueTransformationSequence = group(RescaleIntercept="5", RescaleSlope=str(1 + number))
    frames = read_frames(save(dataset, tmp_path / "file"))
    for number, frame in enumerate(frames):
        expected = (cine[number, 0] - 5.0) * (1 + number) + 5
        np.testing.assert_array_equal(read_pixels(frame), expected)


def test_a_file_of_many_frames_is_read_once(tmp_path, monkeypatch):
    cine = random_cine()
    dataset = enhanced_dataset(cine, [(0, 0), (1, 0), (2, 0)])
    dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence = group(
        RescaleIntercept="7", RescaleSlope="3"
    )
    del dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
    frames = read_frames(save(dataset, tmp_path / "file"))
    (other,) = read_frames(save(header(VALUES), tmp_path / "other"))
    opened, read_file = [], pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda path, **options: opened.append(path) or read_file(path, **options))
    first, last, alone, second = read_each([frames[0], frames[2], other, frames[1]])
    assert opened == [tmp_path / "file", tmp_path / "other"]
    np.testing.assert_array_equal(first, (cine[0, 0] - 5.0) * 3 + 7)
    np.testing.assert_array_equal(second, cine[1, 0] - 5, "the slope of another frame is not its own")
    np.testing.assert_array_equal(last, cine[2, 0])
    np.testing.assert_array_equal(alone, VALUES)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"HighBit": 15}, "12 bits stored of 16, the highest 15"),
        ({"BitsAllocated": 12}, "12 bits stored of 12"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "96 bytes of pixels, where the header asks for 48"),
        ({"PixelRepresentation": 2}, "PixelRepresentation 2, which is 0 or 1"),
        ({"RescaleSlope": "0", "RescaleIntercept": "1"}, "RescaleSlope 0"),
    ],
)
def test_elements_that_do_not_fit(elements, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(header(VALUES, **elements), tmp_path / "x.dcm")


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 64])
@pytest.mark.parametrize("place", [1, 40, 95])
@pytest.mark.parametrize("value", [b"\0", b"\xff", b"\x07"])
def test_inserted_and_lost_bytes(size, place, value, tmp_path):
    path = save(header(VALUES), tmp_path / "x.dcm")
    content = path.read_bytes()
    (frame,) = read_frames(path)
    start = len(content) - VALUES.nbytes
    path.write_bytes(content[: start + place] + value * size + content[start + place :])
    message = (
        "the pixel data cannot" if value == b"\xff" else f"{size} bytes? behind the pixels, as if something had been"
    )
    with pytest.raises(UserError, match=message):
        read_pixels(frame)
    path.write_bytes(content[: start + place] + content[start + place + size :])
    with pytest.raises(UserError, match="the pixel data cannot"):
        read_pixels(frame)


def test_what_may_follow_pixels(tmp_path):
    dataset = header(VALUES)
    dataset.DataSetTrailingPadding = b"\0" * 10
    np.testing.assert_array_equal(read(dataset, tmp_path / "x.dcm"), VALUES)


def test_one_image_in_several_transfer_syntaxes():
    """Files that come with pydicom: one order of bytes and the other, padding behind the pixels, RLE."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    names = ["MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_expb", "MR_small_RLE"]
    first, *others = (read_pixels(read_frames(folder / f"{name}.dcm")[0]) for name in names)
    assert first.shape == (64, 64)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_compressed_pixels(tmp_path):
    dataset = header(VALUES)
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(read(dataset, tmp_path / "x.dcm"), VALUES)
    content = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(content + b"\0" * 6)
    with pytest.raises(UserError, match="6 bytes behind the pixels"):
        read_pixels(read_frames(tmp_path / "x.dcm")[0])


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        (JPEGLosslessSV1, r"JPEG Lossless.*nothing .*decodes them. Run: pip install pylibjpeg pylibjpeg-libjpeg, or"),
        (JPEG2000Lossless, r"JPEG 2000.*nothing .*decodes them. Run: pip install pylibjpeg pylibjpeg-openjpeg, or"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*Nothing in Python does: store the files uncompressed, .* gdcmconv --raw"),
    ],
)
def test_no_decoder_is_the_reason(syntax, message, tmp_path, monkeypatch):
    if pydicom.__version__ < "3":
        monkeypatch.setattr("pydicom.config.pixel_data_handlers", [])
    else:
        monkeypatch.setattr("pydicom.pixels.get_decoder", lambda _: SimpleNamespace(is_available=False))
    dataset = header(VALUES)
    dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(20)])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UserError, match=message) as caught:
        read(dataset, tmp_path / "x.dcm")
    assert "ownload" not in str(caught.value)


def test_damaged_compressed_pixels(tmp_path):
    dataset = header(VALUES)
    dataset.PixelData = encapsulate([bytes(20)])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = RLELossless
    with pytest.raises(UserError, match=r"compressed pixels \(RLE Lossless\) cannot be decoded"):
        read(dataset, tmp_path / "x.dcm")


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "a picture in RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a picture in PALETTE COLOR"),
        ({"PhotometricInterpretation": None}, "a picture in colours that it does not tell"),
        ({"SOPClassUID": pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.66.4")}, "Segmentation Storage, which is no image"),
        ({"Modality": "PR"}, "which is no image"),
        ({"PixelSpacing": None}, "it has no PixelSpacing"),
    ],
)
def test_what_is_no_slice(elements, message, tmp_path):
    path = save(header(VALUES, **elements), tmp_path / "x.dcm")
    with pytest.raises(NotASliceError, match=message) as caught:
        read_frames(path)
    assert caught.value.series_uid


def test_a_transfer_syntax_that_is_none(tmp_path):
    dataset = header(VALUES)
    path = save(dataset, tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.1\0"))
    with pytest.raises(UserError, match="unknown transfer syntax"):
        read_pixels(read_frames(path)[0])
