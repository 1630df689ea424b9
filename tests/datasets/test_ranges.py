"""The slices that a person names, for one stack or in a table."""

from unicodedata import normalize

import pytest

from monai_iln.datasets import add_ranges
from monai_iln.datasets.ranges import parse_range
from monai_iln.errors import UserError


@pytest.mark.parametrize(
    ("text", "ends"),
    [("2-9", (2, 9)), (" 2 - 9 ", (2, 9)), ("3-3", (3, 3)), ("2-", (2, None)), ("-9", (None, 9)), ("-", (None, None))],
)
def test_a_range(text, ends):
    assert parse_range(text) == ends


@pytest.mark.parametrize("text", ["", "5", "2-9-11", "2 to 9", "2:9", "a-b", "2.0-9", "--"])
def test_no_range(text):
    with pytest.raises(UserError, match=r"a first and a last slice, counted from 1\. Write 2-9"):
        parse_range(text)


@pytest.mark.parametrize("text", ["0-4", "9-2", "-0", "0-"])
def test_a_range_without_slices(text):
    with pytest.raises(UserError, match=r"slices are counted from 1, and the first is not after the last"):
        parse_range(text)


@pytest.fixture
def stacks(tmp_path):
    """Three stacks; two of them have one name, in folders of their own."""
    names = ["a/one_ED.nii.gz", "a/SAX.nii", "b/SAX.nii"]
    return [{"image": str(tmp_path / "stacks" / name)} for name in names]


def ranges(stacks, slices, tmp_path):
    return [item.get("slice_range") for item in add_ranges(stacks, slices, tmp_path / "stacks")]


def table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["stack,first,last", *lines]), encoding="utf-8")
    return path


def test_nothing_named(stacks, tmp_path):
    assert add_ranges(stacks, None, tmp_path) == stacks


@pytest.mark.parametrize(("slices", "text"), [("2-9", "2-9"), ("2-", "2-"), (-9, "-9")])  # Fire reads -9 as a number
def test_the_one_stack(stacks, tmp_path, slices, text):
    assert ranges(stacks[:1], slices, tmp_path) == [text]
    assert "slice_range" not in stacks[0]


def test_a_range_is_of_one_stack(stacks, tmp_path):
    with pytest.raises(UserError, match=r"slices 2-9 and 3 stacks: the slices of one .* columns stack, first, last"):
        ranges(stacks, "2-9", tmp_path)


@pytest.mark.parametrize("slices", ["nowhere.csv", "5", 5, 2.5, "2,9", [2, 9]])
def test_neither_a_range_nor_a_table(stacks, tmp_path, slices):
    with pytest.raises(UserError, match="neither a range of slices, such as 2-9, 2- or -9, nor a table"):
        ranges(stacks[:1], slices, tmp_path)


@pytest.mark.parametrize(
    "name", ["one_ED", "one_ED.nii.gz", "a/one_ED", "a/one_ED.nii.gz", "{}/stacks/a/one_ED.nii.gz"]
)
def test_a_table_names_stacks_as_people_do(stacks, tmp_path, name):
    path = table(tmp_path, f"{name.format(tmp_path)},2,9", "b/SAX,,4", "a/SAX.nii , 3,")
    assert ranges(stacks, path, tmp_path) == ["2-9", "3-", "-4"]


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "hdr", "img", "nrrd", "nhdr", "mha", "mhd", "MHD"])
def test_the_ending_of_any_format_may_be_left_out(tmp_path, ending):
    stacks = [{"image": str(tmp_path / "stacks" / "P1" / f"ED.{ending}")}]
    assert ranges(stacks, table(tmp_path, "P1/ED,2,9"), tmp_path) == ["2-9"]


def test_a_table_of_some_stacks_in_a_spreadsheet_s_dialect(stacks, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\ufeffnote;last;first;stack\nbasal;9;2;one_ED\n", encoding="utf-8")
    assert ranges(stacks, str(path), tmp_path) == ["2-9", None, None]


@pytest.mark.parametrize("ending", ["nii", "nrrd", "nhdr", "mha", "MHD"])
def test_the_type_of_a_file_may_be_left_out(tmp_path, ending):
    stacks = [{"image": str(tmp_path / "stacks" / f"v1.2.{ending}")}]
    assert ranges(stacks, table(tmp_path, "v1.2,2,9"), tmp_path) == ["2-9"]


@pytest.mark.parametrize(("written", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_that_are_characters_of_their_own(tmp_path, written, named):
    """As macOS writes them; the table is of another program."""
    items = [{"image": str(tmp_path / normalize(written, "Jos\u00e9") / "sax.nii")}]
    path = table(tmp_path, normalize(named, "Jos\u00e9/sax,2,9"))
    assert add_ranges(items, str(path), tmp_path)[0]["slice_range"] == "2-9"


def test_a_folder_of_dicom_files_is_named_by_its_folder(tmp_path):
    folder = tmp_path / "CINESAX_300"
    folder.mkdir()
    found = add_ranges([{"image": str(folder)}], table(tmp_path, "CINESAX_300,3,11"), folder)
    assert found == [{"image": str(folder), "slice_range": "3-11"}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one_SE,2,9"], r"table\.csv: 'one_SE' is none of the stacks\. Did you mean 'one_ED'\?"),
        (
            ["SAX,2,9"],
            r"'SAX' is the name of 2 stacks, .*a/SAX\.nii and .*b/SAX\.nii among them\. Name them",
        ),
        (["one_ED,2,9", "a/one_ED,2,8"], "names the slices of a/one_ED twice"),
        (["one_ED,2,x"], r"one_ED: slices '2-x': a range has"),
        (["one_ED,9,2"], r"one_ED: slices '9-2': slices are counted from 1"),
        ([",2,9"], "'' is none of the stacks"),
    ],
)
def test_a_mistake_in_a_table_is_one_message(stacks, tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        ranges(stacks, table(tmp_path, *lines), tmp_path)


def test_no_table(stacks, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("stack,begin,end\none_ED,2,9\n", encoding="utf-8")
    with pytest.raises(UserError, match="the columns stack, begin, end: it needs stack, first, last"):
        ranges(stacks, path, tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a table"):
        ranges(stacks, path, tmp_path)
