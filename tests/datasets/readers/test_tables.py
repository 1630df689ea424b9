"""Tables about subjects, as people's programs write them."""

import pytest

from monai_iln.datasets.readers.tables import read_tables


def rows(tmp_path, text):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    found, findings = read_tables([tmp_path / "table.csv"], {"A1B2C3"})
    assert findings == []
    return found.get("A1B2C3")


@pytest.mark.parametrize(
    "text",
    [
        ",External code,Pathology\n0,A1B2C3,HCM\n",
        ",External code,Pathology\n0,A1B2C3,HCM,one,more\n",
        "\ufeffExternal code;Pathology;Age\na1b2c3;HCM\n",
        "Pathology,Pathology,subject\nold,HCM,A1B2C3\n",
        "subject\tPathology\n\nA1B2C3\tHCM\n",
    ],
    ids=["unnamed column", "long row", "mark, semicolons, short row", "column twice", "tabs, empty line"],
)
def test_forms_of_tables(tmp_path, text):
    assert rows(tmp_path, text)["pathology"] == "HCM"


@pytest.mark.parametrize("text", ["", "\n", "\n\n,\n", "a,b\n1,2\n", ",b\nA1B2C3,2\n"])
def test_tables_about_nobody(tmp_path, text):
    assert rows(tmp_path, text) is None


def test_letters_and_accents_apart_are_the_subject_of_the_folder(tmp_path):
    """So some systems write the name of a file, which a table may repeat, while folders are read in one form."""
    (tmp_path / "table.csv").write_text("subject,pathology\nZoe\u0308,HCM\n", encoding="utf-8")
    assert read_tables([tmp_path / "table.csv"], {"Zo\u00eb"})[0]["Zo\u00eb"]["pathology"] == "HCM"


def test_cells_without_a_column_are_told(tmp_path):
    """A separator that is lost in the first line shifts the cells of all rows against their names."""
    path = tmp_path / "table.csv"
    path.write_text("subject,centreED,ES,,\na,1,0,4,,\nb,1,0,4,,\n")
    assert read_tables([path], ["a"])[1] == []
    path.write_text("subject,centreED,ES\na,1,0,4\nb,1,0,4\n")
    infos, (finding,) = read_tables([path], ["a"])
    assert infos == {}
    assert "every row has more cells than there are columns" in finding.detail
