"""Ventricles in volumes: layouts against the phantoms' own truth, pairs by rule and pattern, faults and damage."""

import csv
import gzip
import shutil
from importlib import import_module
from inspect import signature
from pathlib import Path
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom_layouts import ALL_LAYOUTS, TRUTH
from PIL import Image

from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.datasets.prepare import prepare_folders
from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.readers.folders import read_folders
from monai_iln.datasets.readers.layouts import FOLDER_LAYOUTS, STRUCTURES
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "rv" / "chla"
SMALL = {"subjects": 4, "slices": 5, "phases": 4, "size": 96}
AFFINE = np.diag([-1.5, -1.5, 8.0, 1.0])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """The folder of each layout. Copy before changing anything."""
    folder = tmp_path_factory.mktemp("phantoms")
    return {
        layout: write_phantom(folder / layout, layout=ALL_LAYOUTS[layout], **SMALL)
        for layout in ("acdc", "mnms", "chla", "analyze", "slicer")
    }


@pytest.fixture
def copy(phantoms, tmp_path):
    return lambda layout: Path(shutil.copytree(phantoms[layout], tmp_path / layout))


def truth(layout, label="right-ventricle"):
    """(subject, phase) -> mask with the axes of the files, which count columns first."""
    truths = phantom_truth(layout=ALL_LAYOUTS[layout], **SMALL)
    return {(t.subject, t.phase): TRUTH[label](t.masks).swapaxes(0, 1) for t in truths}


def masks(reading):
    return {(stack.subject, stack.phase): stack.label for stack in reading.stacks}


def assert_same(read, expected):
    assert list(read) == sorted(expected)
    for key, mask in expected.items():
        np.testing.assert_array_equal(read[key], mask)


def faults(reading):
    """What is wrong, but for the headers of ACDC, of which every one contradicts itself."""
    return sorted(
        (finding.reason, finding.subject, finding.phase, Path(finding.file).name)
        for finding in reading.findings
        if finding.reason != "contradictory-header"
    )


def picture(seed=0, shape=(20, 18, 3)):
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def drawing(seed=0, shape=(20, 18, 3), value=1):
    mask = np.zeros(shape, np.uint8)
    mask[3 + seed : 9 + seed, 4:12, 1:] = value
    return mask


def shifted(*voxels):
    """The affine of a grid that lies so many voxels off."""
    return np.block([[np.eye(3), np.array(voxels)[:, None]], [np.eye(4)[3]]])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.AnalyzeImage if path.suffix in (".hdr", ".img") else nib.Nifti1Image
    nib.save(kind(array, affine), path)
    return path


def save_pair(image, label, seed=0):
    save(image, picture(seed))
    save(label, drawing(seed))


@pytest.mark.parametrize("name", FOLDER_LAYOUTS)
def test_every_layout_has_a_reader(name):
    reader = import_module(f"monai_iln.datasets.readers.{FOLDER_LAYOUTS[name]}")
    assert list(signature(reader.holds).parameters) == ["files"]
    assert list(signature(reader.plan).parameters) == ["files", "label"]


class TestPublishedLayouts:
    @pytest.mark.parametrize("label", STRUCTURES)
    @pytest.mark.parametrize("layout", ["acdc", "mnms"])
    def test_every_structure_is_found(self, phantoms, layout, label):
        reading = read_folders([phantoms[layout]], label=label)
        assert faults(reading) == []
        assert_same(masks(reading), truth(layout, label))
        pools = truth(layout, "left-ventricle")
        for stack in reading.stacks:
            assert stack.thick_wall == (label != "right-ventricle")
            if label == "myocardium":
                np.testing.assert_array_equal(stack.pool, pools[stack.subject, stack.phase])
            else:
                assert stack.pool is None

    @pytest.mark.parametrize(("layout", "values"), [("acdc", (1, 3, 2)), ("mnms", (3, 1, 2))])
    def test_structures_by_their_value(self, phantoms, layout, values):
        for value, label in zip(values, STRUCTURES, strict=True):
            for spelling in (value, str(value), label.replace("-", " ").title(), label.replace("-", "_")):
                assert_same(masks(read_folders([phantoms[layout]], label=spelling)), truth(layout, label))

    @pytest.mark.parametrize("layout", ["chla", "analyze", "slicer"])
    def test_folders_of_subjects(self, phantoms, layout):
        reading = read_folders([phantoms[layout]])
        assert reading.findings == []
        assert_same(masks(reading), truth(layout))
        np.testing.assert_equal(masks(read_folders([phantoms[layout]], label=1)), masks(reading))

    @pytest.mark.parametrize("layout", ["analyze", "slicer"])
    def test_other_formats_are_the_same_as_nifti(self, phantoms, layout):
        readings = [read_folders([phantoms[layout]]).stacks for layout in ("chla", layout)]
        for nifti, other in zip(*readings, strict=True):
            assert (nifti.subject, nifti.phase, nifti.slices) == (other.subject, other.phase, other.slices)
            np.testing.assert_array_equal(nifti.image, other.image)
            np.testing.assert_array_equal(nifti.label, other.label)
            if layout == "slicer":
                np.testing.assert_allclose(nifti.affine, other.affine, rtol=1e-6)

    def test_what_is_prepared_from_nrrd_and_metaimage(self, phantoms, tmp_path):
        with pytest.warns(DataWarning):  # of areas that jump: the hearts are small
            one, other = (prepare_folders(phantoms[layout], tmp_path / layout) for layout in ("chla", "slicer"))
        for path in sorted(one.parent.glob("*/*.nii.gz")):
            first, second = nib.load(path), nib.load(other.parent / path.relative_to(one.parent))
            np.testing.assert_array_equal(first.dataobj, second.dataobj)
            np.testing.assert_allclose(first.affine, second.affine, rtol=1e-5)

    @pytest.mark.parametrize("layout", ["acdc", "mnms", "chla", "analyze"])
    def test_images_affines_slices_and_files_are_those_of_the_files(self, phantoms, layout):
        for stack in read_folders([phantoms[layout]], label=1).stacks:
            source = nib.load(stack.files[0])
            image = np.asanyarray(source.dataobj)
            if layout == "mnms":
                image = image[..., {"ED": 0, "ES": 2}[stack.phase]]
            np.testing.assert_array_equal(stack.image, image)
            if layout == "acdc":  # whose sform is wrong
                sizes = source.header.get_zooms()
                np.testing.assert_allclose(stack.affine, np.diag([-sizes[0], -sizes[1], sizes[2], 1]), rtol=1e-6)
            else:
                np.testing.assert_array_equal(stack.affine, source.affine)
            assert stack.slices == tuple(range(1, image.shape[2] + 1))
            assert len(stack.files) == len(stack.slices)
            assert stack.label.dtype == np.uint8
            assert stack.label.shape == stack.image.shape

    def test_every_header_of_acdc_contradicts_itself(self, phantoms):
        """One finding a file, images and labels, that says what is believed; by default the stacks are kept."""
        reading = read_folders([phantoms["acdc"]])
        labelled = sorted(path for path in phantoms["acdc"].rglob("*frame*.nii.gz"))
        assert sorted(Path(finding.file) for finding in reading.findings) == labelled
        for finding in reading.findings:
            assert finding.reason == "contradictory-header"
            assert "steps of 1 x 1 x 1" in finding.detail
            assert "the sizes of pixdim are believed" in finding.detail
        assert exclude_slices(reading.stacks, reading.findings, choose_actions())[0] == reading.stacks
        without = exclude_slices(reading.stacks, reading.findings, choose_actions(exclude=["contradictory-header"]))
        assert without == ([], [])

    def test_slices_without_the_structure_are_kept(self, phantoms):
        empty = sum(int((~s.label.any(axis=(0, 1))).sum()) for s in read_folders([phantoms["acdc"]]).stacks)
        assert empty == sum(int((~mask.any(axis=(0, 1))).sum()) for mask in truth("acdc").values()) > 0

    def test_strata(self, phantoms):
        strata = {layout: {s.stratum for s in read_folders([phantoms[layout]]).stacks} for layout in phantoms}
        assert strata["acdc"] == strata["mnms"] == {"NOR", "HCM", "DCM", "MINF"}
        with (phantoms["chla"] / "index.csv").open() as file:
            assert strata["chla"] == {row["disease"] for row in csv.DictReader(file)}
        assert strata["analyze"] == {""}

    @pytest.mark.parametrize("layout", ["acdc", "mnms", "chla"])
    def test_several_sources_and_single_files(self, phantoms, layout):
        folders = sorted({path.parent for path in phantoms[layout].rglob("*.nii.gz")})
        assert_same(masks(read_folders(folders)), truth(layout))
        files = [path for path in phantoms[layout].rglob("*") if path.is_file()]
        assert_same(masks(read_folders(files)), truth(layout))


class TestMnms:
    def table(self, folder):
        return next(folder.glob("*.csv"))

    def test_without_a_table_the_larger_cavity_is_diastolic(self, copy):
        folder = copy("mnms")
        self.table(folder).unlink()
        for label in STRUCTURES:
            assert_same(masks(read_folders([folder], label=label)), truth("mnms", label))

    @pytest.mark.parametrize("first", [0, 1])
    def test_the_table_decides_whether_it_counts_from_0_or_1(self, copy, first):
        folder = copy("mnms")
        with self.table(folder).open() as file:
            rows = list(csv.DictReader(file))
        with self.table(folder).open("w", newline="") as file:
            file.write("\ufeffExternal Code;ed; ES\r\n")  # another program's export; and the phases are exchanged
            file.writelines(f"{r['External code']};{int(r['ES']) + first};{int(r['ED']) + first}\r\n" for r in rows)
        exchanged = {(s, {"ED": "ES", "ES": "ED"}[p]): mask for (s, p), mask in truth("mnms").items()}
        assert_same(masks(read_folders([folder])), exchanged)

    def test_times_that_the_table_does_not_name_are_reported(self, copy):
        folder = copy("mnms")
        path = sorted(folder.rglob("*_gt.nii.gz"))[0]
        volume = nib.load(path)
        labels = np.asanyarray(volume.dataobj).copy()
        labels[..., 3] = labels[..., 2]
        save(path, labels, volume.affine)
        reading = read_folders([folder])
        assert_same(masks(reading), truth("mnms"))
        assert faults(reading) == [("third-phase", path.name.split("_")[0], "", path.name)]

    def test_a_damaged_table_is_reported(self, copy):
        folder = copy("mnms")
        self.table(folder).write_bytes(b"External code,ED,ES\n\xff\xfe,1,2\n")
        reading = read_folders([folder])
        assert_same(masks(reading), truth("mnms"))
        assert faults(reading) == [("unreadable", "", "", self.table(folder).name)]

    def test_second_edition(self, copy, tmp_path):
        folder = copy("mnms")
        expected = {}
        for number, path in enumerate(sorted(folder.rglob("*_gt.nii.gz")), 1):
            home = tmp_path / "two" / f"{number:03d}"
            for file, end in ((path, "_gt"), (path.with_name(path.name.replace("_gt", "")), "")):
                volume = nib.load(file)
                array = np.asanyarray(volume.dataobj)
                for phase, time in (("ED", 0), ("ES", 2)):
                    save(home / f"{number:03d}_SA_{phase}{end}.nii.gz", array[..., time], volume.affine)
                    save(home / f"{number:03d}_LA_{phase}{end}.nii.gz", array[:, :, :1, time], volume.affine)
                if not end:
                    save(home / f"{number:03d}_SA_CINE.nii.gz", array, volume.affine)
            for phase in ("ED", "ES"):
                expected[f"{number:03d}", phase] = truth("mnms")[path.name.split("_")[0], phase]
        (tmp_path / "two" / "dataset_information.csv").write_text(
            "SUBJECT_CODE,DISEASE\n1,FALL\n2,FALL\n3,TRI\n4,NOR\n"
        )
        reading = read_folders([tmp_path / "two"])
        assert_same(masks(reading), expected)
        assert reading.findings == []
        assert [stack.stratum for stack in reading.stacks[::2]] == ["FALL", "FALL", "TRI", "NOR"]


class TestAcdc:
    def test_copies_with_a_folder_for_each_file(self, copy):
        folder = copy("acdc")
        for path in sorted(folder.rglob("*.nii.gz")):
            home = path.with_name(path.name.removesuffix(".gz"))
            home.mkdir()
            (home / home.name).write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
        assert_same(masks(read_folders([folder])), truth("acdc"))

    def test_phases_come_from_info(self, copy):
        folder = copy("acdc")
        info = folder / "patient002" / "Info.cfg"
        text = info.read_text().replace("ED: 1", "ED: x").replace("ES: 3", "ES: 1").replace("ED: x", "ED: 3")
        info.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
        read = masks(read_folders([folder]))
        np.testing.assert_array_equal(read["patient002", "ES"], truth("acdc")["patient002", "ED"])
        np.testing.assert_array_equal(read["patient002", "ED"], truth("acdc")["patient002", "ES"])

    @pytest.mark.parametrize("text", [None, "", "ED: 1\nES: 1\n", "ED: one\nES: 3\n", "ED: 1\n", b"\xff\xff"])
    def test_a_subject_without_a_usable_info_is_left_out(self, copy, text):
        folder = copy("acdc")
        info = folder / "patient003" / "Info.cfg"
        info.unlink() if text is None else info.write_bytes(text if isinstance(text, bytes) else text.encode())
        reading = read_folders([folder])
        assert_same(masks(reading), {k: v for k, v in truth("acdc").items() if k[0] != "patient003"})
        assert faults(reading) == [("unreadable", "patient003", "", "Info.cfg")]

    def test_frames_that_info_does_not_name(self, copy):
        folder = copy("acdc")
        info = folder / "patient001" / "Info.cfg"
        info.write_text(info.read_text().replace("ES: 3", "ES: 4"))
        reading = read_folders([folder])
        assert_same(masks(reading), {k: v for k, v in truth("acdc").items() if k != ("patient001", "ES")})
        assert {fault[:3] for fault in faults(reading)} == {("third-phase", "patient001", "")}

    def test_the_same_subject_twice(self, copy):
        folder = copy("acdc")
        shutil.copytree(folder / "patient001", folder / "testing" / "patient001")
        with pytest.raises(UserError, match="both are subject patient001 at ED.*give one copy"):
            read_folders([folder])


class TestFaults:
    """One bad pair: it is reported once, under the right name, and all others are as they were."""

    PAIR = ("patient002", "ES")

    def check(self, folder, reason, name, layout="acdc", **options):
        reading = read_folders([folder], **options)
        subject = self.PAIR[0] if layout == "acdc" else "subject02"
        assert_same(masks(reading), {k: v for k, v in truth(layout).items() if k != (subject, "ES")})
        assert faults(reading) == [(reason, subject, "ES", name)]
        return next(finding for finding in reading.findings if finding.reason == reason)

    def paths(self, folder):
        home = folder / "patient002"
        return home / "patient002_frame03.nii.gz", home / "patient002_frame03_gt.nii.gz"

    @pytest.mark.parametrize("which", [0, 1])
    def test_unreadable(self, copy, which):
        path = self.paths(copy("acdc"))[which]
        path.write_bytes(path.read_bytes()[:-20])
        finding = self.check(path.parents[1], "unreadable", "patient002_frame03_gt.nii.gz")
        assert str(path) in finding.detail

    def test_no_image(self, copy):
        image, label = self.paths(copy("acdc"))
        image.unlink()
        self.check(image.parents[1], "no-image", label.name)

    def test_no_label(self, copy):
        image, label = self.paths(copy("acdc"))
        label.unlink()
        self.check(image.parents[1], "no-label", image.name)

    def change(self, path, change=lambda array: array, move=lambda affine: affine):
        array, affine = read_volume(path)
        nib.save(nib.Nifti1Image(change(array), move(affine)), path)
        return path

    def test_mismatch_of_shape(self, copy):
        label = self.change(self.paths(copy("acdc"))[1], change=lambda array: array[..., 1:])
        self.check(label.parents[1], "mismatch", label.name)

    @pytest.mark.parametrize("move", [np.diag([-1.0, 1, 1, 1]), shifted(0.5, 0, 0), shifted(0, 0, -0.3)])
    def test_misplaced_labels_are_read_for_those_who_keep_them(self, copy, move):
        label = self.change(self.paths(copy("acdc"))[1], move=lambda affine: affine @ move)
        reading = read_folders([label.parents[1]])
        assert faults(reading) == [("misplaced", "patient002", "ES", label.name)]
        assert_same(masks(reading), truth("acdc"))
        kept, _ = exclude_slices(reading.stacks, reading.findings, choose_actions())
        assert {(s.subject, s.phase) for s in reading.stacks} - {(s.subject, s.phase) for s in kept} == {
            ("patient002", "ES")
        }
        assert exclude_slices(reading.stacks, reading.findings, choose_actions(keep=["misplaced"]))[0] == reading.stacks

    @pytest.mark.parametrize("move", [shifted(0.02, -0.02, 0), np.diag([1.0001, 0.9999, 1.001, 1]), shifted(0, 0, 0.2)])
    def test_headers_that_differ_by_rounding(self, copy, move):
        label = self.change(self.paths(copy("acdc"))[1], move=lambda affine: affine @ move)
        reading = read_folders([label.parents[1]])
        assert faults(reading) == []
        assert_same(masks(reading), truth("acdc"))

    @pytest.mark.parametrize("value", [4, 200])
    def test_label_values_that_the_data_set_does_not_know(self, copy, value):
        def spoil(array):
            array[0, 0, 0] = value
            return array

        label = self.change(self.paths(copy("acdc"))[1], change=spoil)
        self.check(label.parents[1], "label-values", label.name)

    @pytest.mark.parametrize(
        "change", [lambda a: a * 0.5, lambda a: -a.astype(np.int16), lambda a: a * np.int32(70000)]
    )
    def test_label_values_that_are_none(self, copy, change):
        label = self.change(self.paths(copy("acdc"))[1], change=change)
        self.check(label.parents[1], "label-values", label.name)

    def test_label_values_that_rounding_moved(self, copy):
        """255 with a slope of 1/255, as programs write masks of floating point in 8 bits."""
        folder = copy("chla")
        paths = sorted(folder.rglob("*_rv.nii.gz"))
        for path in paths:
            self.change(path, change=lambda array: array * 0.9999999)
            image = nib.load(path)
            image.set_data_dtype(np.uint8)
            nib.save(image, path)
        assert np.asanyarray(nib.load(paths[0]).dataobj).max() != 1
        reading = read_folders([folder])
        assert reading.findings == []
        assert_same(masks(reading), truth("chla"))

    def test_empty_label(self, copy):
        def erase(array):
            array[array == 1] = 0
            return array

        label = self.change(self.paths(copy("acdc"))[1], change=erase)
        self.check(label.parents[1], "empty-label", label.name)
        assert faults(read_folders([label.parents[1]], label="left-ventricle")) == []

    def test_spacing_that_contradicts_the_axes(self, copy):
        image, label = self.paths(copy("acdc"))
        for path in (image, label):
            self.change(path, move=lambda affine: np.diag([9.0, 1.4, 1.4, 1.0]))
        self.check(label.parents[1], "mismatch", label.name)

    def test_a_few_labels_with_a_stray_value(self, copy):
        def spoil(array):
            array[0, 0, 0] = 9
            return array

        folder = copy("chla")
        label = self.change(folder / "subject02" / "subject02_ES_rv.nii.gz", change=spoil)
        self.check(folder, "label-values", label.name, layout="chla")

    def test_analyze_pairs_are_not_compared_by_affine(self, copy):
        folder = copy("analyze")
        for path in folder.rglob("*_rv.hdr"):
            content = bytearray(path.read_bytes())
            content[80:92] = np.zeros(3, np.float32).tobytes()  # drawing programs often leave no sizes
            path.write_bytes(content)
        assert_same(masks(read_folders([folder])), truth("analyze"))

    def test_all_is_lost(self, tmp_path):
        save(tmp_path / "P1" / "ED.nii.gz", picture())
        reading = read_folders([tmp_path])
        assert reading.stacks == []
        assert faults(reading) == [("no-label", "P1", "", "ED.nii.gz")]


NAMES = [
    ("ED.nii.gz", "ED_gt.nii.gz", "ED"),
    ("ES.nii", "ES-label.nii.gz", "ES"),
    ("p07_ed.hdr", "p07_ed_RV manual.img", "ED"),
    ("scan.nii.gz", "seg_scan.nii.gz", "1"),
    ("scan.nii.gz", "scan_reader2.nii.gz", "1"),
    ("image.nii.gz", "label.nii.gz", "1"),
    ("ED_image.nii.gz", "ED_drawing.nii.gz", "ED"),
    ("image_End-Systole.nii", "mask_End-Systole.nii", "ES"),
    ("systole/scan.nii", "systole/scan_roi.nii", "ES"),
    ("Diastole/image.nii", "Diastole/rv.nii", "ED"),
    ("ES.nii/ES.nii", "ES_seg.nii/ES_seg.nii", "ES"),
    ("Ärzte 3 ED.nii.gz", "Ärzte 3 ED rechter Ventrikel.nii.gz", "ED"),
]


class TestFoldersByRule:
    @pytest.mark.parametrize(("image", "label", "phase"), NAMES)
    def test_names(self, tmp_path, image, label, phase):
        root = tmp_path / "données été 心"
        for seed, subject in enumerate(("Müller A", "Müller B")):
            save_pair(root / subject / image, root / subject / label, seed)
        reading = read_folders([root])
        assert reading.findings == []
        assert_same(masks(reading), {("Müller A", phase): drawing(0) > 0, ("Müller B", phase): drawing(1) > 0})
        for seed, stack in enumerate(reading.stacks):
            np.testing.assert_array_equal(stack.image, picture(seed))

    def test_phases_are_matched_and_told_apart(self, tmp_path):
        for seed, phase in enumerate(("ED", "ES")):
            save_pair(tmp_path / "P1" / f"img_{phase}.nii.gz", tmp_path / "P1" / f"{phase}-rv.nii.gz", seed)
            save_pair(
                tmp_path / "P2" / f"frame{9 + 5 * seed:02d}.nii",
                tmp_path / "P2" / f"frame{9 + 5 * seed:02d}_x.nii",
                seed,
            )
        reading = read_folders([tmp_path])
        expected = {("P1", "ED"): 0, ("P1", "ES"): 1, ("P2", "09"): 0, ("P2", "14"): 1}
        assert_same(masks(reading), {key: drawing(seed) > 0 for key, seed in expected.items()})

    @pytest.mark.parametrize("lost", ["ED.nii", "ED_rv.nii"])
    def test_a_lone_file_takes_no_other_partner(self, tmp_path, lost):
        for phase in ("ED", "ES"):
            save_pair(tmp_path / "P1" / f"{phase}.nii", tmp_path / "P1" / f"{phase}_rv.nii")
        (tmp_path / "P1" / lost).unlink()
        reading = read_folders([tmp_path])
        assert [stack.phase for stack in reading.stacks] == ["ES"]
        left = ({"ED.nii", "ED_rv.nii"} - {lost}).pop()
        assert faults(reading) == [("no-image" if left == "ED_rv.nii" else "no-label", "P1", "", left)]
        assert "for other folders, use patterns for image and mask" in reading.findings[0].detail

    def test_other_images_beside(self, tmp_path):
        home = tmp_path / "P1"
        save_pair(home / "P1_ED.nii.gz", home / "P1_ED_rv.nii.gz")
        save(home / "P1.nii.gz", picture(shape=(20, 18, 3, 4)))  # the cine
        save(home / "P1_ED_filtered.nii.gz", picture(5))
        (home / "notes.txt").write_text("seen")
        for junk in (home / "._P1_ED.nii.gz", tmp_path / "__MACOSX" / "P1" / "P1_ES.nii.gz", home / ".cache" / "x.nii"):
            junk.parent.mkdir(parents=True, exist_ok=True)
            junk.write_bytes(b"\0\5\x16\7")
        reading = read_folders([tmp_path])
        assert_same(masks(reading), {("P1", "ED"): drawing() > 0})
        np.testing.assert_array_equal(reading.stacks[0].image, picture())
        assert faults(reading) == [("no-label", "P1", "", "P1_ED_filtered.nii.gz")]

    def test_a_damaged_file_keeps_its_partner(self, tmp_path):
        for which in ("ED", "ED_rv"):
            home = tmp_path / which / "P1"
            save_pair(home / "ED.nii", home / "ED_rv.nii")
            path = home / f"{which}.nii"
            path.write_bytes(path.read_bytes()[:-1])
            assert faults(read_folders([tmp_path / which])) == [("unreadable", "P1", "ED", "ED_rv.nii")]

    def test_two_labels_of_one_image_are_not_guessed_at(self, tmp_path):
        for subject in ("P1", "P2"):
            save_pair(tmp_path / subject / "ED.nii", tmp_path / subject / "ED_rv.nii")
        save(tmp_path / "P1" / "ED_lv.nii", drawing(5))
        reading = read_folders([tmp_path])
        assert list(masks(reading)) == [("P2", "ED")]
        assert faults(reading) == [("mismatch", "P1", "", "ED.nii")]
        read = masks(read_folders([tmp_path], image="{subject}/{phase}.nii", mask="{subject}/{phase}_rv.nii"))
        assert_same(read, {("P1", "ED"): drawing() > 0, ("P2", "ED"): drawing() > 0})

    def test_a_label_that_fits_two_images_is_not_guessed_at(self, tmp_path):
        home = tmp_path / "P1"
        save(home / "apple.nii", picture())
        save(home / "pear.nii", picture(1))
        save(home / "mask.nii", drawing())
        reading = read_folders([tmp_path])
        assert reading.stacks == []
        assert ("mismatch", "P1", "", "mask.nii") in faults(reading)

    def test_of_two_images_that_of_the_label_s_shape_is_its(self, tmp_path):
        save(tmp_path / "P1" / "apple.nii", picture(shape=(20, 18, 4)))
        save_pair(tmp_path / "P1" / "pear.nii", tmp_path / "P1" / "mask.nii")
        reading = read_folders([tmp_path])
        np.testing.assert_array_equal(reading.stacks[0].image, picture())
        assert faults(reading) == [("no-label", "P1", "", "apple.nii")]

    def test_one_volume_in_two_formats(self, tmp_path):
        for suffix in (".nii", ".nii.gz", ".img"):
            save_pair(tmp_path / "P1" / f"ED{suffix}", tmp_path / "P1" / f"ED_rv{suffix}")
        reading = read_folders([tmp_path])
        assert reading.findings == []
        assert reading.stacks[0].files[0].endswith("ED.nii")

    def test_image_and_label_in_different_formats(self, tmp_path):
        save_pair(tmp_path / "P1" / "ED.nii.gz", tmp_path / "P1" / "ED_rv.img")
        assert_same(masks(read_folders([tmp_path])), {("P1", "ED"): drawing() > 0})

    def test_cines_without_single_frames(self, tmp_path):
        image = picture(shape=(20, 18, 3, 5))
        label = np.zeros(image.shape, np.uint8)
        label[..., 1], label[..., 4] = drawing(0), drawing(1)
        label[8:, :, :, 1] = 0
        save(tmp_path / "P1" / "cine.nii.gz", image)
        save(tmp_path / "P1" / "cine_rv.nii.gz", label)
        save(tmp_path / "P2" / "cine.nii.gz", image)
        save(tmp_path / "P2" / "cine_rv.nii.gz", label * (np.arange(5) == 4).astype(np.uint8))
        reading = read_folders([tmp_path])
        expected = {("P1", "ED"): 4, ("P1", "ES"): 1, ("P2", "5"): 4}
        assert_same(masks(reading), {key: label[..., time] for key, time in expected.items()})
        for stack, time in zip(reading.stacks, expected.values(), strict=True):
            np.testing.assert_array_equal(stack.image, image[..., time])
        save(tmp_path / "P2" / "cine_rv.nii.gz", label * 0)
        assert faults(read_folders([tmp_path])) == [("empty-label", "P2", "", "cine_rv.nii.gz")]

    @pytest.mark.parametrize("values", [(0, 255), (0, 7)])
    def test_any_value_marks_a_mask_of_two(self, tmp_path, values):
        save_pair(tmp_path / "P1" / "ED.nii", tmp_path / "P1" / "ED_rv.nii")
        save(tmp_path / "P1" / "ED_rv.nii", drawing(value=values[1]))
        assert_same(masks(read_folders([tmp_path])), {("P1", "ED"): drawing() > 0})
        assert faults(read_folders([tmp_path], label=1)) == [("empty-label", "P1", "ED", "ED_rv.nii")]

    def test_the_pool_of_a_wall_is_what_it_encloses(self, tmp_path):
        ring = np.zeros((20, 18, 3), np.uint8)
        ring[4:14, 5:12] = 1
        ring[6:12, 7:10] = 0
        ring[8, :8, 0] = 0  # open at the base
        save(tmp_path / "P1" / "ED.nii", picture())
        save(tmp_path / "P1" / "ED_myo.nii", ring)
        (stack,) = read_folders([tmp_path], label="myocardium").stacks
        np.testing.assert_array_equal(stack.label, ring)
        pool = np.zeros_like(ring)
        pool[6:12, 7:10, 1:] = 1
        np.testing.assert_array_equal(stack.pool, pool)
        walls = {"myocardium": True, "left-ventricle": True, "right-ventricle": False, 1: False}
        for label, thick in walls.items():
            (stack,) = read_folders([tmp_path], label=label).stacks
            assert (stack.thick_wall, stack.pool is None) == (thick, label != "myocardium")

    def test_several_values_need_a_number(self, tmp_path):
        for subject in ("P1", "P2"):
            save(tmp_path / subject / "ED.nii", picture())
            save(tmp_path / subject / "ED_gt.nii", drawing(0, value=2) + drawing(3, value=5))
        with pytest.raises(UserError, match=r"2 of 2 labels have several values beside 0: 2, 5, 7.*--label"):
            read_folders([tmp_path])
        read = masks(read_folders([tmp_path], label="5"))
        assert_same(read, {(s, "ED"): (drawing(3) > 0) & (drawing(0) == 0) for s in ("P1", "P2")})

    def test_slices_come_last(self, tmp_path):
        shape, order = (20, 18, 3), (2, 0, 1)
        affine = np.array([[0.1, -1.5, 0, 9], [0.2, 0, -1.5, 8], [8, 0, 0.1, 7], [0, 0, 0, 1.0]])
        save(tmp_path / "P1" / "ED.nii", picture(shape=shape).transpose(order), affine)
        save(tmp_path / "P1" / "ED_rv.nii", drawing(shape=shape).transpose(order), affine)
        (stack,) = read_folders([tmp_path]).stacks
        np.testing.assert_array_equal(stack.image, picture(shape=shape))
        np.testing.assert_array_equal(stack.label, drawing(shape=shape))
        for place in ((0, 0, 0), (4, 7, 2)):
            np.testing.assert_allclose(
                stack.affine @ [*place, 1], affine @ [place[2], place[0], place[1], 1], rtol=1e-6
            )

    def test_tables_of_strata(self, tmp_path):
        for subject in ("case 01", "case 02", "x", "2b"):
            save_pair(tmp_path / subject / "ED.nii", tmp_path / subject / "ED_rv.nii")
        (tmp_path / "a.csv").write_text("Subject\tage\n1\t3\n")
        (tmp_path / "b.csv").write_text("subject,Disease\n1,TOF\n2,DORV\nX,TGA\n,nobody\n")
        (tmp_path / "c.csv").write_text("colour,price\nred,2\n")
        strata = {stack.subject: stack.stratum for stack in read_folders([tmp_path]).stacks}
        assert strata == {"case 01": "TOF", "case 02": "", "x": "TGA", "2b": ""}  # two subjects may be number 2

    def test_all_subjects_in_one_folder(self, tmp_path):
        for number in range(3):
            save_pair(tmp_path / f"P{number}_ED.nii", tmp_path / f"P{number}_ED_rv.nii", number)
        with pytest.raises(UserError, match="both are subject .* at ED.*patterns for image and mask"):
            read_folders([tmp_path])
        for path in tmp_path.glob("*.nii"):
            path.rename(path.with_name(path.name.replace("_ED", "")))
        with pytest.raises(UserError, match="as if of one subject.*patterns for image and mask"):
            read_folders([tmp_path])
        read = masks(read_folders([tmp_path], image="{subject}.nii", mask="{subject}_rv.nii"))
        assert_same(read, {(f"P{number}", "1"): drawing(number) > 0 for number in range(3)})

    def test_one_subject_under_two_spellings(self, tmp_path):
        for home in (tmp_path / "a" / "p1", tmp_path / "b" / "P1"):
            save_pair(home / "ED.nii", home / "ED_rv.nii")
        with pytest.raises(UserError, match="both are subject"):
            read_folders([tmp_path])


class TestPatterns:
    @pytest.mark.parametrize(
        ("image", "mask", "phase"),
        [
            ("{subject}/{phase}.nii.gz", "{subject}/{phase}_roi.hdr", "ED"),
            ("{subject}/{phase}.nii.gz", "{subject}/{phase}_roi.img", "ED"),
            ("{subject}/{phase}.nii.gz", "{subject}/{phase}_roi.*", "ED"),
            ("images/{subject}.nii", "labels/{subject}.nii", "1"),
            ("img/{subject}_{phase}.nii", "img/{subject}_{phase}_gt.nii", "end"),
            ("x/{subject}/{subject}-{phase}.nii", "x/{subject}/seg*/{subject}-{phase}-*.nii", "ED"),
            ("{subject} (1)/es [a+b].nii", "{subject} (1)/es {x}.nii".replace("{x}", "$"), "1"),
            ("./{phase}/{subject}.nii", "./{phase}/{subject}.mask.nii", "ES"),
        ],
    )
    def test_patterns(self, tmp_path, image, mask, phase):
        word = {"ED": "eD", "ES": "systole"}.get(phase, phase)
        for seed, subject in enumerate(("Jos\u00e9_1", "b.c 2")):
            values = {"subject": subject, "phase": word}
            save_pair(
                tmp_path / image.format(**values).replace("*", "gment"),
                # macOS writes accents as characters of their own
                tmp_path / normalize("NFD", mask.format(**values).replace(".*", ".hdr").replace("*", "mented")),
                seed,
            )
        reading = read_folders([tmp_path], image=image, mask=mask)
        assert reading.findings == []
        assert_same(masks(reading), {("Jos\u00e9_1", phase): drawing(0) > 0, ("b.c 2", phase): drawing(1) > 0})

    @pytest.mark.parametrize("in_capitals", [False, True])
    def test_both_halves_of_a_pair_are_one_volume(self, tmp_path, in_capitals):
        save_pair(tmp_path / "P1" / "ED.hdr", tmp_path / "P1" / "ED_m.hdr")
        for path in sorted((tmp_path / "P1").iterdir()):
            path.rename(path.with_suffix(path.suffix.upper() if in_capitals else path.suffix))
        reading = read_folders([tmp_path], image="{subject}/{phase}.*", mask="{subject}/{phase}_m.*")
        assert reading.findings == []
        assert_same(masks(reading), {("P1", "ED"): drawing(0) > 0})

    def test_lone_files_are_reported(self, tmp_path):
        for subject in ("P1", "P2", "P3"):
            save_pair(tmp_path / subject / "ED.nii", tmp_path / subject / "ED_m.nii")
        (tmp_path / "P2" / "ED.nii").unlink()
        (tmp_path / "P3" / "ED_m.nii").unlink()
        save(tmp_path / "P1" / "cine.nii", picture(shape=(20, 18, 3, 4)))
        reading = read_folders([tmp_path], image="{subject}/{phase}.nii", mask="{subject}/{phase}_m.nii")
        assert list(masks(reading)) == [("P1", "ED")]
        assert faults(reading) == [("no-image", "P2", "ED", "ED_m.nii"), ("no-label", "P3", "ED", "ED.nii")]

    def test_a_name_used_twice_is_the_same_twice(self, tmp_path):
        save_pair(tmp_path / "P1" / "P1.nii", tmp_path / "P1" / "P1_m.nii")
        save_pair(tmp_path / "P1" / "P2.nii", tmp_path / "P1" / "P2_m.nii")
        reading = read_folders([tmp_path], image="{subject}/{subject}.nii", mask="{subject}/{subject}_m.nii")
        assert [stack.files[0] for stack in reading.stacks] == [str(tmp_path / "P1" / "P1.nii")]
        assert reading.findings == []

    def test_patterns_go_before_published_layouts(self, phantoms):
        reading = read_folders(
            [phantoms["acdc"]],
            image="{subject}/*_frame{phase}.nii.gz",
            mask="{subject}/*_frame{phase}_gt.nii.gz",
            label=1,
        )
        expected = {(s, {"ED": "01", "ES": "03"}[p]): mask for (s, p), mask in truth("acdc").items()}
        assert_same(masks(reading), expected)

    @pytest.mark.parametrize(
        ("image", "mask", "message"),
        [
            ("{subject}.nii", None, "patterns come as a pair"),
            (None, "{subject}.nii", "patterns come as a pair"),
            ("{phase}.nii", "{phase}_m.nii", "has no {subject}"),
            ("{subject}/{phase}.nii", "{subject}/m.nii", "only one of them has {phase}"),
            ("{subject}/{frame}.nii", "{subject}/m.nii", "{frame} is not known"),
            ("{subject}/nothing.nii", "{subject}/ED_m.nii", "'{subject}/nothing.nii': matches no file.*P1/ED"),
            ("{subject}/ED.nii", "{subject}/nothing.nii", "'{subject}/nothing.nii': matches no file.*P1/ED"),
            ("{subject}/*.nii", "{subject}/ED_m.nii", "both are subject P1"),
        ],
    )
    def test_mistakes(self, tmp_path, image, mask, message):
        save_pair(tmp_path / "P1" / "ED.nii", tmp_path / "P1" / "ED_m.nii")
        save(tmp_path / "P1" / "ES.nii", picture())
        with pytest.raises(UserError, match=message):
            read_folders([tmp_path], image=image, mask=mask)

    def test_patterns_and_another_layout(self, phantoms):
        with pytest.raises(UserError, match="for the layout folders alone"):
            read_folders([phantoms["acdc"]], layout="acdc", image="{subject}", mask="{subject}_gt")


class TestLayoutsAndLabels:
    def test_layouts_can_be_given(self, phantoms):
        assert set(FOLDER_LAYOUTS) >= {"acdc", "mnms", "folders"}
        for layout in ("acdc", "mnms"):
            assert_same(masks(read_folders([phantoms[layout]], layout=layout)), truth(layout))
            with pytest.raises(UserError, match="--label"):
                read_folders([phantoms[layout]], layout="folders")

    def test_two_layouts_at_once(self, phantoms):
        both = [phantoms["acdc"], phantoms["mnms"]]
        with pytest.raises(UserError, match="holds the layouts acdc and mnms. Choose one with --layout"):
            read_folders(both)
        assert_same(masks(read_folders(both, layout="acdc")), truth("acdc"))

    @pytest.mark.parametrize(
        ("layout", "message"),
        [(None, "no data of the layout acdc or .*a.txt"), ("acdc", "no data of the layout acdc"), ("png", "not known")],
    )
    def test_no_such_data(self, tmp_path, layout, message):
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(UserError, match=message):
            read_folders([tmp_path], layout=layout)

    def test_the_wrong_layout(self, phantoms):
        with pytest.raises(UserError, match="no data of the layout mnms.*or the layout folders"):
            read_folders([phantoms["chla"]], layout="mnms")

    def test_no_source(self, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_folders([tmp_path / "nowhere"])
        with pytest.raises(UserError, match="no source: no data"):
            read_folders([])

    @pytest.mark.parametrize("label", ["atrium", "", 0, -1, 7, "1.5"])
    def test_labels_that_do_not_exist(self, phantoms, label):
        with pytest.raises(UserError, match="one of right-ventricle, left-ventricle, myocardium.*1, 2, 3"):
            read_folders([phantoms["acdc"]], label=label)

    def test_progress(self, phantoms, capsys):
        read_folders([phantoms["acdc"]], progress=True)
        assert "Reading: 100%" in capsys.readouterr().err
        read_folders([phantoms["acdc"]])
        assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two subjects in every format; the first of them is going to be damaged."""
    folder = tmp_path_factory.mktemp("small")
    for suffix in (".nii", ".nii.gz", ".img"):
        for seed, subject in enumerate(("P1", "P2")):
            home = folder / suffix.strip(".") / subject
            save_pair(home / f"ED{suffix}", home / f"ED_rv{suffix}", seed)
    return folder


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_never_makes_a_wrong_mask(small, tmp_path_factory, data):
    """Any bytes of one file: its pair is reported, or is as it was but for the voxels that were hit themselves."""
    kind = data.draw(st.sampled_from(["nii", "nii.gz", "img"]))
    folder = Path(shutil.copytree(small / kind, tmp_path_factory.mktemp("damaged") / "data"))
    path = data.draw(st.sampled_from(sorted((folder / "P1").iterdir())))
    content = bytearray(path.read_bytes())
    header = {".nii": 352, ".hdr": len(content)}.get(path.suffix, 0)
    in_header = header > 0 and (header == len(content) or data.draw(st.booleans()))
    first, end = (0, header) if in_header else (header, len(content))
    for place in data.draw(st.lists(st.integers(first, end - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.sampled_from([0, 1, 2, 3, 127, 128, 255]) | st.integers(0, 255))
    if data.draw(st.integers(0, 9)) == 0:
        content = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(content)
    try:
        reading = read_folders([folder])
    except UserError:
        return
    read = {stack.subject: stack for stack in reading.stacks}
    np.testing.assert_array_equal(read["P2"].label, drawing(1))
    np.testing.assert_array_equal(read["P2"].image, picture(1))
    if "P1" not in read:
        assert {finding.subject for finding in reading.findings} == {"P1"}
    else:
        spared_label = in_header or kind == "nii.gz" or "rv" not in path.name
        if spared_label:
            np.testing.assert_array_equal(read["P1"].label, drawing(0))
        else:
            assert np.count_nonzero(read["P1"].label != drawing(0)) <= 3
        if kind == "nii.gz" or "rv" in path.name:
            np.testing.assert_array_equal(read["P1"].image, picture(0))
        elif not in_header:
            assert np.count_nonzero(read["P1"].image != picture(0)) <= 3


@pytest.fixture(scope="module")
def children():
    if not REAL.is_dir():
        pytest.skip(f"the children's right ventricles are not at {REAL}")
    return read_folders([REAL / "nifti"])


class TestRealData:
    def test_all_of_the_children_are_read(self, children):
        assert children.findings == []
        assert len(children.stacks) == 128
        assert len({stack.subject for stack in children.stacks}) == 64
        assert sum(len(stack.slices) for stack in children.stacks) == 1353
        assert sum(int((~stack.label.any(axis=(0, 1))).sum()) for stack in children.stacks) == 3

    def test_the_index_tells_the_same(self, children):
        with (REAL / "nifti" / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        for stack, row in zip(children.stacks, rows, strict=True):
            assert (stack.subject, stack.phase) == (f"subject{int(row['subject']):02d}", row["phase"])
            assert stack.stratum == row["disease"]
            assert stack.label.sum() == int(row["rv_px"])
            assert stack.label.shape == (128, 128, int(row["slices"]))
            spacing = np.linalg.norm(stack.affine[:3, :3], axis=0)
            np.testing.assert_allclose(spacing, [float(row[key]) for key in ("dx", "dy", "dz")], rtol=1e-4)

    def test_nifti_and_analyze_are_the_same(self, children):
        reading = read_folders([REAL / "analyze"])
        assert reading.findings == []
        nifti = [stack for stack in children.stacks if int(stack.subject[-2:]) <= 8]
        for one, other in zip(nifti, reading.stacks, strict=True):
            assert (one.subject, one.phase, one.slices) == (other.subject, other.phase, other.slices)
            np.testing.assert_array_equal(one.image, other.image, strict=True)
            np.testing.assert_array_equal(one.label, other.label, strict=True)
            np.testing.assert_allclose(*(np.linalg.norm(s.affine[:3, :3], axis=0) for s in (one, other)), rtol=1e-6)

    def test_both_copies_at_once(self, children):
        with pytest.raises(UserError, match="both are subject subject01, by their names"):
            read_folders([REAL])


def test_of_two_sites_001_is_two_persons(tmp_path):
    for site, phase in (("siteA", "ED"), ("siteB", "ES")):
        save_pair(tmp_path / site / "001" / f"{phase}.nii", tmp_path / site / "001" / f"{phase}_rv.nii")
    with pytest.raises(UserError, match="both are subject 001, by their names. Rename one"):
        read_folders([tmp_path])


ACCENTS = {
    "folders": ("{}/ED.nii", "{}/ED_rv.nii"),
    "mnms": ("{}_SA_ED.nii", "{}_SA_ED_gt.nii"),
    "pictures": ("{}/ED/images/1.png", "{}/ED/masks/1.png"),
}


@pytest.mark.parametrize("layout", ACCENTS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_that_are_characters_of_their_own_change_no_name(tmp_path, layout, form):
    """As macOS writes them. The table is of another program."""
    image, mask = (tmp_path / normalize(form, path.format("Jos\u00e9")) for path in ACCENTS[layout])
    if layout == "pictures":
        for path, array in ((image, picture()), (mask, 255 * drawing())):
            path.parent.mkdir(parents=True)
            Image.fromarray(array[..., 1].astype(np.uint8)).save(path)
    else:
        save(image, picture())
        save(mask, drawing(value=3))
    (tmp_path / "table.csv").write_text("subject,pathology\nJos\u00e9,HCM\n", encoding="utf-8")
    (stack,) = read_folders([tmp_path]).stacks
    assert (stack.subject, stack.phase, stack.stratum) == ("Jos\u00e9", "ED", "HCM")


def test_one_person_under_two_spellings_of_accents(tmp_path):
    for form, phase in (("NFC", "ED"), ("NFD", "ES")):
        folder = tmp_path / normalize(form, "Jos\u00e9")
        save_pair(folder / f"{phase}.nii", folder / f"{phase}_rv.nii")
    with pytest.raises(UserError, match="both are subject Jos\u00e9, by their names. Rename one"):
        read_folders([tmp_path])


def test_camel_case_has_words(tmp_path):
    folder = tmp_path / "P1"
    save_pair(folder / "imgED.nii", folder / "maskED.nii")
    save_pair(folder / "imgES.nii", folder / "maskES.nii")
    assert [stack.phase for stack in read_folders([tmp_path]).stacks] == ["ED", "ES"]
    (folder / "imgED.nii").unlink()
    (folder / "maskES.nii").unlink()
    with_none = read_folders([tmp_path])
    assert with_none.stacks == []
