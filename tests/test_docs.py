"""Every block of Python in the documentation runs as it stands there, the blocks of a page one after the other."""

import doctest
import re
import sys
from pathlib import Path

import pytest
import yaml

import monai_iln

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES_WITH_PYTHON = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
SECTION_LINK = re.compile(r"\]\(([^)#:\s]*)#([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def run_block(block, namespace, page, line):
    """With prompts, what is printed must be what the page says; without, the code must run through."""
    if ">>>" not in block:
        exec(compile("\n" * line + block, page, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(block, namespace, page.name, str(page), line)
    try:
        doctest.DebugRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test, clear_globs=False)
    except doctest.DocTestFailure as failure:
        place = f"{page}:{line + failure.example.lineno + 1}"
        pytest.fail(f"{place}: {failure.example.source}expected {failure.example.want}got {failure.got}", pytrace=False)
    except doctest.UnexpectedException as unexpected:
        raise unexpected.exc_info[1] from None
    namespace.update(test.globs)  # the test has a copy


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "page"}
    for match in BLOCK.finditer(text):
        try:
            run_block(match[1], namespace, page, text.count("\n", 0, match.start(1)))
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package in sys.stdlib_module_names or package in ("", "monai_iln", "torch", "monai"):
                raise
            pytest.skip(f"{page.name} needs {package}, which is not installed")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors_of(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_sections_lead_somewhere(page):
    links = SECTION_LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if link[1] not in anchors_of((page.parent / link[0]) if link[0] else page)] == []


def test_index_links_to_every_page():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert set(PAGES) - linked == {index}


def test_release_has_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    heading = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert (citation["version"], str(citation["date-released"])) == heading.groups()
    assert citation["version"] == monai_iln.__version__
