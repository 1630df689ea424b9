import numpy as np
import pytest

from monai_iln.datasets.formats.contours import rasterize, read_contour
from monai_iln.errors import UserError


def write(path, text):
    path.write_text(text)
    return path


def test_points_are_x_y(tmp_path):
    points = read_contour(write(tmp_path / "contour.txt", "3.00 1.50\n5.00 1.50\n\n5.00 4.00 \n"))
    np.testing.assert_array_equal(points, [[3, 1.5], [5, 1.5], [5, 4]])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_point(tmp_path, encoding):
    path = tmp_path / "contour.txt"
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""  # the other two write it themselves
    path.write_text(f"{mark}3.00 1.50\r\n5.00 1.50\r\n5.00 4.00\r\n", encoding=encoding)
    np.testing.assert_array_equal(read_contour(path), [[3, 1.5], [5, 1.5], [5, 4]])


def test_rasterize_fills_rows_by_y_and_includes_the_outline():
    mask = rasterize(np.array([[2.0, 1], [6, 1], [6, 3], [2, 3]]), (6, 8))
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 2:7] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 2\n3 4\n",
        "1 2\n3 4\n5\n",
        "1 2\n3 nan\n5 6\n",
        "a b\nc d\ne f\n",
        "é\n",
        "1 2 3\n" * 3,
        "1 2\n3 4\n5 1e300\n",
    ],
)
def test_damaged_contours(tmp_path, text):
    path = write(tmp_path / "contour.txt", text)
    with pytest.raises(UserError, match=r"contour\.txt: .*(at least three 'x y' pairs|one 'x y' pair).*Download"):
        read_contour(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe1", b"\xff\xfe", b"\xef\xbb\xbf\xff 1\n", b"\xef\xbb\xbf\xef\xbb\xbf1 2\n"]
)
def test_damage_behind_a_byte_order_mark(tmp_path, content):
    path = tmp_path / "contour.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"contour\.txt: .*Download"):
        read_contour(path)


def test_missing_contour(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_contour(tmp_path / "none.txt")


def test_a_file_that_is_no_contour_by_its_size(tmp_path):
    path = tmp_path / "contour.txt"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(UserError, match="4294967296 bytes"):
        read_contour(path)
