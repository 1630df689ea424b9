"""Volumes: what nibabel reads is read, what is damaged is refused in one message."""

import gzip
import logging

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import little_memory

from monai_iln.datasets.formats.header import MAX_VOXELS
from monai_iln.datasets.formats.volumes import read_header, read_volume
from monai_iln.errors import UserError

SHAPE = (9, 7, 4)
AFFINE = np.array([[-1.2, 0.3, 0.1, 40.0], [0.3, 1.2, 0.5, -31.0], [0.0, -0.2, 8.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
KINDS = {  # file name, what nibabel calls it
    "scan.nii": nib.Nifti1Image,
    "scan.nii.gz": nib.Nifti1Image,
    "pair.img": nib.Nifti1Pair,
    "pair.img.gz": nib.Nifti1Pair,
    "new.nii.gz": nib.Nifti2Image,
    "new.img": nib.Nifti2Pair,
    "analyze.img": nib.AnalyzeImage,
}


def values(dtype=np.int16, shape=SHAPE):
    return (np.arange(np.prod(shape)) * 37 % 251).reshape(shape).astype(dtype)


def write(path, array=None, kind=nib.Nifti1Image, affine=AFFINE, **fields):
    image = kind(values() if array is None else array, affine)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patch(path, *changes):
    """Write (format, offset, value) over the bytes of a NIfTI-1 or Analyze file, packed or not."""
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for dtype, offset, value in changes:
        new = np.asarray(value, dtype).tobytes()
        content[offset : offset + len(new)] = new
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, INTER = 40, 70, 76, 108, 112, 116
QFORM, SFORM, UNITS, SROW_X, MAGIC = 252, 254, 123, 280, 344


class TestWhatIsRead:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, ">i2", ">f4"])
    @pytest.mark.parametrize("name", KINDS)
    def test_values_types_and_affine_are_those_of_nibabel(self, tmp_path, name, dtype):
        affine = np.diag([-1.5, 1.5, 8, 1]) if name == "analyze.img" else AFFINE
        image = KINDS[name](values(dtype), affine)
        image.set_data_dtype(dtype)
        if np.dtype(dtype).byteorder == ">":
            image = KINDS[name](values(dtype), affine, image.header.as_byteswapped(">"))
        nib.save(image, tmp_path / name)
        array, read_affine = read_volume(tmp_path / name)
        np.testing.assert_array_equal(array, values(np.dtype(dtype).newbyteorder("=")), strict=True)
        assert array.dtype.isnative
        np.testing.assert_array_equal(read_affine, nib.load(tmp_path / name).affine)
        if name != "analyze.img":
            np.testing.assert_allclose(read_affine, AFFINE, atol=1e-5)

    @pytest.mark.parametrize("name", ["pair.img", "analyze.img"])
    def test_a_pair_is_read_by_either_name(self, tmp_path, name):
        write(tmp_path / name, kind=KINDS[name])
        for suffix in (".img", ".hdr"):
            np.testing.assert_array_equal(read_volume((tmp_path / name).with_suffix(suffix))[0], values())
        for suffix in (".img", ".hdr"):
            (tmp_path / name).with_suffix(suffix).rename((tmp_path / "OLD").with_suffix(suffix.upper()))
        np.testing.assert_array_equal(read_volume(tmp_path / "OLD.HDR")[0], values())

    def test_packed_is_seen_from_the_bytes(self, tmp_path):
        write(tmp_path / "a.nii")
        (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
        (tmp_path / "c.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
        for name in ("b.nii.gz", "c.nii"):
            np.testing.assert_array_equal(read_volume(tmp_path / name)[0], values())

    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.AnalyzeImage])
    def test_stored_values_are_scaled(self, tmp_path, kind):
        path = write(tmp_path / ("a.nii" if kind is nib.Nifti1Image else "a.img"), kind=kind, affine=np.eye(4))
        patch(path.with_suffix(".hdr") if kind is nib.AnalyzeImage else path, ("<f4", SLOPE, [0.25, 10]))
        np.testing.assert_array_equal(read_volume(path)[0], values() * 0.25 + 10)
        np.testing.assert_array_equal(read_volume(path)[0], nib.load(path).get_fdata())

    def test_trailing_axes_of_length_one_are_dropped_and_time_is_kept(self, tmp_path):
        assert read_volume(write(tmp_path / "a.nii", values(shape=(9, 7, 4, 1, 1))))[0].shape == (9, 7, 4)
        assert read_volume(write(tmp_path / "b.nii", values(shape=(9, 7, 1))))[0].shape == (9, 7, 1)
        array, _ = read_volume(write(tmp_path / "c.nii", values(shape=(9, 7, 4, 3))))
        np.testing.assert_array_equal(array, values(shape=(9, 7, 4, 3)))

    @pytest.mark.parametrize(("code", "factor"), [(1, 1e3), (2, 1), (3, 1e-3), (0, 1), (2 + 8, 1), (3 + 16, 1e-3)])
    def test_affines_are_in_millimetres(self, tmp_path, code, factor):
        affine = np.diag([0.002, 0.002, 0.008, 1]) if code == 1 else np.diag([20.0, 20.0, 80.0, 1])
        path = patch(write(tmp_path / "a.nii", affine=affine), ("u1", UNITS, code))
        np.testing.assert_allclose(np.diag(read_volume(path)[1])[:3], np.diag(affine)[:3] * factor, rtol=1e-6)

    def test_analyze_has_sizes_but_no_orientation(self, tmp_path):
        write(tmp_path / "a.img", kind=nib.AnalyzeImage, affine=np.diag([-1.5, 1.25, 8, 1]))
        write(tmp_path / "b.nii")
        header = read_header(tmp_path / "a.img")
        assert not header.oriented
        assert read_header(tmp_path / "b.nii").oriented
        np.testing.assert_allclose(np.abs(np.diag(header.affine)), [1.5, 1.25, 8, 1])

    def test_small_flaws_are_mended_without_a_word(self, tmp_path, capfd, caplog):
        path = write(tmp_path / "a.nii", affine=None)
        # qfac 0, a size of 0, a negative one, codes that do not exist, an odd offset of bits
        patch(
            path,
            ("<f4", SLOPE, [np.inf, np.nan]),
            ("<f4", PIXDIM, [0, 1.5, 0, -8]),
            ("<i2", QFORM, [77, 99]),
            ("<i2", DATATYPE + 2, 3),
        )
        with caplog.at_level(logging.DEBUG):
            array, affine = read_volume(path)
        np.testing.assert_array_equal(array, values())
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [1.5, 1, 8])
        assert capfd.readouterr() == ("", "")
        assert not caplog.records


BAD_HEADERS = {
    "two axes": ("<i2", DIM, [2, 63, 4]),
    "five axes": ("<i2", DIM, [5, 9, 7, 2, 1, 2]),
    "an axis of no length": ("<i2", DIM, [3, 9, 0, 4]),
    "a negative axis": ("<i2", DIM, [3, 9, -7, -4]),
    "no axes": ("<i2", DIM, [0, 0, 0, 0]),
    "more voxels than fit anywhere": ("<i2", DIM, [4, 32767, 32767, 32767, 32767]),
    "one slice too many": ("<i2", DIM, [3, 9, 7, 5]),
    "one slice too few": ("<i2", DIM, [3, 9, 7, 3]),
    "one column too few": ("<i2", DIM, [3, 8, 7, 4]),
    "complex numbers": ("<i2", DATATYPE, 32),
    "colours": ("<i2", DATATYPE, 128),
    "no data type": ("<i2", DATATYPE, 0),
    "an unknown data type": ("<i2", DATATYPE, 4711),
    "wider numbers": ("<i2", DATATYPE, 16),
    "long doubles": ("<i2", DATATYPE, 1536),
    "data inside the header": ("<f4", VOX_OFFSET, 100),
    "data at no place": ("<f4", VOX_OFFSET, np.nan),
    "data far behind the end": ("<f4", VOX_OFFSET, 1e30),
    "data at minus infinity": ("<f4", VOX_OFFSET, -np.inf),
    "scaling that overflows": ("<f4", SLOPE, [3e38, -3e38]),
    "an affine that is not finite": ("<f4", SROW_X, np.nan),
    "axes that fall together": ("<f4", SROW_X, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 8, 0]),
    "giant voxels": ("<f4", SROW_X, 1e6),
    "a wrong magic": ("S4", MAGIC, b"n+7"),
    "the magic of a pair": ("S4", MAGIC, b"ni1"),
    "no header": ("S348", 0, b"GIF89a"),
}


class TestWhatIsRefused:
    @pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
    @pytest.mark.parametrize("what", BAD_HEADERS)
    def test_headers(self, tmp_path, what, packed):
        path = write(tmp_path / ("a.nii.gz" if packed else "a.nii"))
        patch(path, BAD_HEADERS[what])
        with pytest.raises(UserError, match=r"a\.nii.*(copy|Copy|export)"):
            read_volume(path)

    @pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "pair.img", "analyze.img", "analyze.hdr", "pair.hdr"])
    @pytest.mark.parametrize("length", [0, 1, 200, 347, 0.5, -1])
    def test_truncated_files(self, tmp_path, name, length):
        path = tmp_path / name
        write(path.with_suffix(".img") if path.suffix == ".hdr" else path, kind=KINDS[name.replace("hdr", "img")])
        content = path.read_bytes()
        path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
        with pytest.raises(UserError, match="scan|pair|analyze"):
            read_volume(path)

    @pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "pair.img", "pair.img.gz"])
    def test_files_with_more_than_the_header_says(self, tmp_path, name):
        path = write(tmp_path / name, kind=KINDS[name])
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        path.write_bytes(gzip.compress(content + b"\0") if path.suffix == ".gz" else content + b"\0")
        with pytest.raises(UserError, match="must agree"):
            read_volume(path)

    @pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
    def test_whole_files_of_other_numbers(self, tmp_path, dtype):
        with pytest.raises(UserError, match="data type .* 3 or 4 axes of real numbers"):
            read_volume(write(tmp_path / "a.nii.gz", np.zeros(SHAPE, dtype)))

    def test_whole_files_of_too_many_voxels(self, tmp_path):
        path = patch(write(tmp_path / "a.nii", values(np.uint8)), ("<i2", DIM, [3, 17000, 17000, 1]))
        with path.open("r+b") as file:
            file.truncate(352 + 17000 * 17000)  # takes no space on disk
        with pytest.raises(UserError, match=f"up to {MAX_VOXELS} voxels"):
            read_volume(path)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_voxels_without_a_value(self, tmp_path, value):
        array = values(np.float32)
        array[3, 2, 1] = value
        with pytest.raises(UserError, match="1 voxels are NaN, infinite"):
            read_volume(write(tmp_path / "a.nii.gz", array))

    def test_a_wrong_checksum(self, tmp_path):
        path = write(tmp_path / "a.nii.gz")
        content = bytearray(path.read_bytes())
        content[-6] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read.*CRC"):
            read_volume(path)

    def test_halves_of_pairs(self, tmp_path):
        write(tmp_path / "a.img", kind=nib.AnalyzeImage, affine=np.eye(4))
        (tmp_path / "a.img").unlink()
        with pytest.raises(UserError, match=r"there is no a\.img beside it"):
            read_volume(tmp_path / "a.hdr")
        write(tmp_path / "b.img", kind=nib.Nifti1Pair)
        (tmp_path / "b.hdr").unlink()
        with pytest.raises(UserError, match=r"there is no b\.hdr beside it"):
            read_volume(tmp_path / "b.img")
        write(tmp_path / "c.nii").rename(tmp_path / "c.hdr")
        (tmp_path / "c.img").write_bytes(b"")
        with pytest.raises(UserError, match="not one of a pair"):
            read_volume(tmp_path / "c.hdr")

    def test_other_files_folders_and_missing_ones(self, tmp_path):
        (tmp_path / "a.nii").mkdir()
        for name, message in (
            ("scan.dcm", "not the name of a volume"),
            ("a.nii", "no such file"),
            ("b.nii", "no such"),
        ):
            with pytest.raises(UserError, match=message):
                read_volume(tmp_path / name)

    @pytest.mark.parametrize("what", ["header claims more", "file holds more"])
    def test_no_file_takes_more_memory_than_it_is_worth(self, tmp_path, what):
        path = write(tmp_path / "a.nii.gz")
        if what == "header claims more":
            patch(path, ("<i2", DIM, [3, 16384, 16384, 1]), ("<i2", DATATYPE, 64))  # 2 GB
            assert MAX_VOXELS >= 16384 * 16384
        else:
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(200_000_000), 1))
        with little_memory(), pytest.raises(UserError, match="must agree"):
            read_volume(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name, kind in KINDS.items():
        write(folder / name, values(np.uint8), kind)
    return folder


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_ends_in_one_message_or_harms_only_what_it_hit(originals, tmp_path_factory, data):
    """Random bytes and cuts, in both halves of pairs: no other exception, no warning, and never moved voxels."""
    folder = tmp_path_factory.mktemp("damaged")
    name = data.draw(st.sampled_from([*KINDS, "pair.hdr", "analyze.hdr", "new.hdr"]))
    for path in originals.glob(f"{name.split('.')[0]}.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / name
    content = bytearray(path.read_bytes())
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4))
    for place in places:
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.none() | st.integers(0, len(content)))]
    path.write_bytes(content)
    try:
        array, affine = read_volume(path)
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017 - it need not be raised
        return
    assert np.isfinite(array).all()
    assert np.isfinite(affine).all()
    if name.endswith("gz"):
        np.testing.assert_array_equal(array, values())
    elif name.endswith("img"):
        assert np.count_nonzero(array != values()) <= len(places)
    else:
        assert array.size == values().size
