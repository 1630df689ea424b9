"""NRRD and MetaImage: what SimpleITK and pen and paper write is read, what is damaged is refused in one message."""

import gzip
import struct
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from memory import little_memory

from monai_iln.datasets.formats.header import MAX_VOXELS
from monai_iln.datasets.formats.volumes import VOLUME_NAME, read_header, read_volume
from monai_iln.errors import UserError

SHAPE = (9, 7, 4)
AFFINE = np.array([[-1.2, 0.3, 0.1, 40.0], [0.3, 1.2, 0.5, -31.0], [0.0, -0.2, 8.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = ("scan.nrrd", "scan.nhdr", "scan.mha", "scan.mhd")


def values(dtype=np.int16, shape=SHAPE):
    return (np.arange(np.prod(shape)) * 37 % 251).reshape(shape).astype(dtype)


def write(path, array=None, affine=AFFINE, packed=False):
    """As SimpleITK does. Its arrays count the first axis last."""
    array = values() if array is None else array
    image = SimpleITK.GetImageFromArray(array.T, isVector=False)
    if array.ndim == 3:
        in_lps = LPS @ affine
        steps = np.linalg.norm(in_lps[:3, :3], axis=0)
        image.SetSpacing(steps)
        image.SetDirection((in_lps[:3, :3] / steps).ravel())
        image.SetOrigin(in_lps[:3, 3])
    SimpleITK.WriteImage(image, path, useCompression=packed)
    return path


NRRD = b"""NRRD0004
type: short
dimension: 3
space: right-anterior-superior
sizes: 9 7 4
space directions: (-1.2,0.3,0) (0.3,1.2,-0.2) (0.1,0.5,8)
space origin: (40,-31,5)
kinds: domain domain domain
endian: little
encoding: raw

"""
META = b"""ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
ElementSpacing = 1.5 1.5 8
DimSize = 9 7 4
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
BYTES = values("<i2").tobytes(order="F")


def put(path, header, *changes, content=BYTES):
    """Write a header by hand, with texts replaced, and the voxels."""
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    path.write_bytes(header + content)
    return path


class TestWhatIsRead:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("name", NAMES)
    def test_values_types_and_affine(self, tmp_path, name, packed, dtype):
        array, affine = read_volume(write(tmp_path / name, values(dtype), packed=packed))
        np.testing.assert_array_equal(array, values(dtype), strict=True)
        np.testing.assert_allclose(affine, AFFINE, atol=1e-9)
        header = read_header(tmp_path / name)
        assert (header.oriented, header.doubt, header.shape, header.dtype) == (True, "", SHAPE, np.dtype(dtype))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_same_as_the_nifti_that_it_was_made_from(self, tmp_path, name):
        turned = AFFINE.copy()
        turned[:3, :3], _ = np.linalg.qr(AFFINE[:3, :3])
        turned[:3, :3] *= [1.4, 1.3, 8]
        nib.save(nib.Nifti1Image(values(), turned), tmp_path / "scan.nii.gz")
        SimpleITK.WriteImage(SimpleITK.ReadImage(tmp_path / "scan.nii.gz"), tmp_path / name)
        for one, other in zip(read_volume(tmp_path / "scan.nii.gz"), read_volume(tmp_path / name), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)

    @pytest.mark.parametrize(
        ("space", "signs"),
        [
            (b"right-anterior-superior", (1, 1, 1)),
            (b"RAS", (1, 1, 1)),
            (b"left-anterior-superior", (-1, 1, 1)),
            (b"left-posterior-superior", (-1, -1, 1)),
        ],
    )
    def test_spaces_of_nrrd(self, tmp_path, space, signs):
        array, affine = read_volume(put(tmp_path / "a.nrrd", NRRD, (b"right-anterior-superior", space)))
        np.testing.assert_array_equal(array, values())
        np.testing.assert_allclose(affine, np.diag([*signs, 1]) @ AFFINE, atol=1e-9)

    def test_nrrd_in_other_words(self, tmp_path):
        changes = ((b"endian: little", b"endian: big"), (b"encoding: raw", b"encoding: gz"), (b"\n", b"\r\n"))
        content = gzip.compress(values(">i2").tobytes(order="F"))
        array, _ = read_volume(put(tmp_path / "a.nrrd", NRRD, *changes, content=content))
        np.testing.assert_array_equal(array, values(), strict=True)
        commented = (b"NRRD0004\n", b"NRRD0004\n# sizes: 1 1 1\nSegment0_ID:=Segment_1\n")
        np.testing.assert_array_equal(read_volume(put(tmp_path / "b.nrrd", NRRD, commented))[0], values())

    def test_metaimage_in_other_words(self, tmp_path):
        """Without CompressedDataSize, SimpleITK itself gives what was in memory."""
        changes = ((b"MSB = False", b"MSB = True"), (b"CompressedData = False", b"CompressedData = True"))
        content = zlib.compress(values(">i2").tobytes(order="F"))
        array, affine = read_volume(put(tmp_path / "a.mha", META, *changes, content=content))
        np.testing.assert_array_equal(array, values(), strict=True)
        np.testing.assert_array_equal(affine, [[-1.5, 0, 0, -1], [0, -1.5, 0, -2], [0, 0, 8, 3], [0, 0, 0, 1]])

    def test_directions_that_are_not_told(self, tmp_path):
        """As in files that programs wrote who knew sizes alone, or nothing."""
        bare = put(tmp_path / "a.nrrd", NRRD, (b"space: right-anterior-superior", b"space dimension: 3"))
        sizes = (b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"")
        for path in (bare, put(tmp_path / "a.mha", META, sizes)):
            assert not read_header(path).oriented
        np.testing.assert_allclose(np.abs(np.diag(read_volume(tmp_path / "a.mha")[1])), [1.5, 1.5, 8, 1])

    @pytest.mark.parametrize("name", NAMES)
    def test_time_and_axes_of_length_one(self, tmp_path, name):
        cine = values(shape=(9, 7, 4, 3))
        array, affine = read_volume(write(tmp_path / name, cine))
        np.testing.assert_array_equal(array, cine)
        assert affine.shape == (4, 4)
        assert read_volume(write(tmp_path / name, values(shape=(9, 7, 4, 1))))[0].shape == (9, 7, 4)

    @pytest.mark.parametrize("name", ["A.NRRD", "a.seg.nrrd", "a.Mha", "ü 日本 [1] %d.nrrd", "ü 日本 'x'.mha"])
    def test_names(self, tmp_path, name):
        assert VOLUME_NAME.fullmatch(name)
        assert not VOLUME_NAME.fullmatch(f"{name}.gz")
        header = META if "mha" in name.lower() else NRRD
        np.testing.assert_array_equal(read_volume(put(tmp_path / name, header))[0], values())

    def test_a_comment_that_names_the_last_field(self, tmp_path):
        comment = (b"NDims", b"Comment = before ElementDataFile\nNDims")
        np.testing.assert_array_equal(read_volume(put(tmp_path / "a.mha", META, comment))[0], values())


BAD = {  # the file, what is changed in its header; what is said
    "two axes": (NRRD, (b"sizes: 9 7 4", b"sizes: 9 7"), "shape|sizes"),
    "an axis of no length": (NRRD, (b"sizes: 9 7 4", b"sizes: 9 0 4"), "shape"),
    "more voxels than fit anywhere": (NRRD, (b"sizes: 9 7 4", b"sizes: 90000 70000 40000"), f"up to {MAX_VOXELS}"),
    "one slice too many": (NRRD, (b"sizes: 9 7 4", b"sizes: 9 7 5"), "must agree"),
    "one column too few": (NRRD, (b"sizes: 9 7 4", b"sizes: 8 7 4"), "must agree"),
    "no sizes": (NRRD, (b"sizes: 9 7 4", b"size: 9 7 4"), "no sizes"),
    "wider numbers": (NRRD, (b"type: short", b"type: double"), "must agree"),
    "no data type": (NRRD, (b"type: short", b"type: shirt"), "cannot be read"),
    "an affine that is not finite": (NRRD, (b"(0.1,0.5,8)", b"(0.1,nan,8)"), "cannot be read"),
    "axes that fall together": (NRRD, (b"(0.3,1.2,-0.2)", b"(-1.2,0.3,0.001)"), "two axes|cannot be read"),
    "giant voxels": (NRRD, (b"(0.1,0.5,8)", b"(0.1,0.5,8000)"), "voxels of 1.24 x 1.25 x 8e"),
    "an unusual encoding": (NRRD, (b"encoding: raw", b"encoding: hex"), "encoding hex: save it as raw"),
    "other units": (NRRD, (b"kinds:", b'space units: "cm" "cm" "cm"\nkinds:'), "lengths in cm, not in mm"),
    "voxels in several files": (NRRD, (b"kinds:", b"data file: LIST\nkinds:"), "several files.*one file"),
    "voxels in no file": (NRRD, (b"kinds:", b"data file: other.raw\nkinds:"), "there is no other.raw beside it"),
    "skipped bytes": (NRRD, (b"kinds:", b"byte skip: 4\nkinds:"), "behind something else"),
    "no header": (NRRD, (b"NRRD0004", b"GIF89a"), "no header in its first bytes"),
    "one slice too many of MetaImage": (META, (b"9 7 4", b"9 7 5"), "must agree"),
    "no sizes of MetaImage": (META, (b"DimSize", b"DimSizes"), "no DimSize"),
    "text": (META, (b"BinaryData = True", b"BinaryData = False"), "encoding ASCII"),
    "a header that is skipped": (META, (b"DimSize", b"HeaderSize = -1\nDimSize"), "behind something else"),
    "no data type of MetaImage": (META, (b"MET_SHORT", b"MET_SHIRT"), "cannot be read"),
    "giant voxels of MetaImage": (META, (b"1.5 1.5 8", b"1.5 1.5 8e6"), "voxels of 1.5 x 1.5 x 8e"),
    "no end": (META, (b"ElementDataFile = LOCAL\n", b""), "no ElementDataFile"),
}


class TestWhatIsRefused:
    @pytest.mark.parametrize("what", BAD)
    def test_headers(self, tmp_path, what, capfd):
        header, change, said = BAD[what]
        path = put(tmp_path / ("a.nrrd" if header is NRRD else "a.mha"), header, change)
        with pytest.raises(UserError, match=rf"(?s)a\.(nrrd|mha).*({said}).*([cC]opy|export)"):
            read_volume(path)

    @pytest.mark.parametrize("components", [2, 3, 4])
    @pytest.mark.parametrize("name", NAMES)
    def test_colours_and_vectors(self, tmp_path, name, components):
        array = np.zeros((*SHAPE[::-1], components), np.uint8)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), tmp_path / name)
        with pytest.raises(UserError, match=f"scan.*: {components} values a voxel, as colours.*scalar volume"):
            read_volume(tmp_path / name)

    def test_complex_values(self, tmp_path):
        image = SimpleITK.GetImageFromArray(np.zeros(SHAPE[::-1], np.complex64))
        SimpleITK.WriteImage(image, tmp_path / "a.nrrd")
        with pytest.raises(UserError, match=r"a\.nrrd: (2 values a voxel|cannot be read)"):
            read_volume(tmp_path / "a.nrrd")

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("name", NAMES)
    def test_bytes_too_few_and_too_many(self, tmp_path, name, packed):
        path = write(tmp_path / name, np.random.default_rng(0).integers(0, 900, (20, 30, 4)), packed=packed)
        data = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
        content = data.read_bytes()
        for changed in (content[:-1], content[: len(content) // 2], content + b"\0", content + content):
            data.write_bytes(changed)
            with pytest.raises(UserError, match="scan.*must agree"):
                read_volume(path)

    @pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
    def test_a_wrong_checksum(self, tmp_path, name):
        path = write(tmp_path / name, packed=True)
        content = bytearray(path.read_bytes())
        content[-6 if name.endswith("nrrd") else -2] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read.*incorrect data check"):
            read_volume(path)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("name", NAMES)
    def test_voxels_without_a_value(self, tmp_path, name, value):
        array = values(np.float32)
        array[3, 2, 1] = value
        with pytest.raises(UserError, match="1 voxels are NaN, infinite"):
            read_volume(write(tmp_path / name, array))

    def test_missing_files(self, tmp_path):
        with pytest.raises(UserError, match=r"a\.nrrd: no such file"):
            read_volume(tmp_path / "a.nrrd")
        write(tmp_path / "a.mhd")
        (tmp_path / "a.raw").unlink()
        with pytest.raises(UserError, match=r"a\.mhd: .*there is no a\.raw beside it"):
            read_volume(tmp_path / "a.mhd")

    def test_no_file_takes_more_memory_than_it_is_worth(self, tmp_path):
        sizes = (b"sizes: 9 7 4", b"sizes: 16384 16384 1"), (b"encoding: raw", b"encoding: gzip")
        claims = put(tmp_path / "a.nrrd", NRRD, *sizes)
        bomb = put(tmp_path / "b.nrrd", NRRD, sizes[1], content=gzip.compress(bytes(200_000_000), 1))
        for path in (claims, bomb):
            with little_memory(), pytest.raises(UserError, match="must agree"):
                read_volume(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name in NAMES:
        for packed in (False, True):
            write(folder / name.replace("scan", f"{name[-4:]}{'zip' * packed}"), values(np.uint8), packed=packed)
    return folder


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_ends_in_one_message_or_harms_only_what_it_hit(originals, tmp_path_factory, data):
    """Random bytes, cuts and insertions: no other exception, no warning, and never moved voxels."""
    folder = tmp_path_factory.mktemp("damaged")
    path = data.draw(st.sampled_from(sorted(originals.glob("*.*h*")) + sorted(originals.glob("*.nrrd"))))
    for file in originals.glob(f"{path.stem}.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    victim = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(victim.read_bytes())
    whole, inserted = len(content), b""
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4))
    for place in places:
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        inserted = data.draw(st.binary(max_size=4))
        content[places[0] : places[0]] = inserted
    content = content[: data.draw(st.none() | st.integers(0, len(content)))]
    assume(not inserted or len(content) != whole)  # as many bytes cut as inserted: nobody can see that voxels moved
    victim.write_bytes(content)
    try:
        array, affine = read_volume(folder / path.name)
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017 - it need not be raised
        return
    assert np.isfinite(affine).all()
    if sorted(array.shape) != sorted(SHAPE) or struct.calcsize("b") != array.itemsize:
        raise AssertionError(f"{array.shape} {array.dtype}")
    if "zip" in path.name:
        np.testing.assert_array_equal(array.ravel("F"), values(np.uint8).ravel("F"))
    else:
        assert np.count_nonzero(array.ravel("F") != values(np.uint8).ravel("F")) <= len(places) + 4


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("NDims = 3", "NDims = 7"),
        ("ElementType = MET_SHORT\n", ""),
        ("CenterOfRotation = ", "Center"),
        ("CompressedDataSize = ", "CompressedDataSize = nan"),
        ("ElementSpacing = 1.5 1.5 8", "ElementSpacing = 1.5 8"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 01e3081 0 0 0 1"),
        ("Offset = 0 0 0", "Offset = 0 0"),
        ("ElementSpacing", "ElementSpa\xe9cing"),
    ],
)
def test_a_damaged_meta_header_is_told_once(tmp_path, capfd, good, bad):
    path = write(tmp_path / "scan.mha", affine=np.diag([-1.5, -1.5, 8.0, 1.0]), packed=True)
    content = path.read_bytes()
    assert good.encode() in content
    path.write_bytes(content.replace(good.encode(), bad.encode()))
    with pytest.raises(UserError, match="cannot be read as a NRRD or MetaImage volume"):
        read_volume(path)
    assert capfd.readouterr().err == ""


def test_a_name_with_a_line_break(tmp_path):
    array, _ = read_volume(write(tmp_path / "one\ntwo.mha"))
    np.testing.assert_array_equal(array, values())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(tmp_path):
    """SimpleITK would end the whole process."""
    path = tmp_path / "a\udcff.nrrd"
    write(tmp_path / "scan.nrrd").rename(path)
    with pytest.raises(UserError, match="a path that is not UTF-8. Rename what is not"):
        read_volume(path)
