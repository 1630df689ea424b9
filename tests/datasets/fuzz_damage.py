"""Damage as it comes from bad disks, broken downloads, careless editors and mean strangers; and what nobody can notice.

A file that is whole by its own rules, and holds another truth than before, cannot be told from a good one. What such a
damage may change is said here with each kind; whatever else it changes must be reported, or is wrong in silence.
"""

import gzip
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom

IMAGE, LABEL, AFFINE, LOST, NEW = "image", "label", "affine", "lost", "new"
VALUES = {IMAGE, LABEL}
MANY = 10**6
CONTOUR = re.compile(r".*contour-manual\.txt")
ODD_NAMES = (
    "{} (1)",
    "ü 日本 {}",
    "[1] {}",
    "'{}'",
    '"{}',
    "-{}",
    ".{}",
    "a\nb {}",
    "a\udcff{}",
    "{} " + 120 * "x",
    "%20{}",
)


class Damage(NamedTuple):
    """What was done to an input.

    Attributes:
        what: The kind, in words.
        files: The files that it touched, from the folder of the input.
        may: What it may change in the stacks of its files without anybody being able to notice.
        slices: The number of slices in which it may.
    """

    what: str
    files: tuple[Path, ...]
    may: frozenset[str] | set[str] = frozenset()
    slices: int = MANY


def damage(rng, folder):
    """Damage one file of a folder, or two, or a folder in it; anew until something was changed.

    Args:
        rng: The source of chance, a ``random.Random``.
        folder: The folder. It is changed.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    kinds = [change_bytes] * 6 + [change_content] * 6 + [change_place] * 4 + [change_folder]
    while True:
        file = rng.choice(files)
        found = rng.choice(kinds)(rng, folder, file, files)
        if found is None:
            continue
        if folder.name == "prepared" and file.suffix == ".gz":  # a list has the hashes of its files
            found = found._replace(may=set())
        return found._replace(files=tuple(path.relative_to(folder) for path in found.files))


def change_bytes(rng, folder, file, files):
    """Bytes as they come, without a thought to what they mean."""
    content = file.read_bytes()
    if not content:
        return None
    kind = rng.choice(["flip", "flip", "zeros", "cut", "insert", "append", "text", "empty", "twice"])
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        place = min(place, rng.randrange(600))  # headers come first
    length = 1
    if kind == "flip":
        length = rng.randint(1, 8)
        part = bytes(byte ^ rng.randint(1, 255) for byte in content[place : place + length])
        changed = content[:place] + part + content[place + length :]
    elif kind == "zeros":
        length = rng.randint(1, 4096)
        changed = content[:place] + bytes(len(content[place : place + length])) + content[place + length :]
    elif kind == "text":
        word = rng.choice([b"-1", b"9", b"nan", b"1e308", b"\n", b"\0", b"\xff", b",", b'"'])
        changed = content[:place] + word + content[place + 1 :]
    else:
        extra = rng.randbytes(rng.randint(1, 64))
        changed = {
            "cut": content[:place],
            "insert": content[:place] + extra + content[place:],
            "append": content + extra,
            "empty": b"",
            "twice": content + content,
        }[kind]
    if changed == content:
        return None
    file.write_bytes(changed)
    same_length = len(changed) == len(content)
    may, slices = unprotected(file, content, place if same_length else None)
    return Damage(f"bytes: {kind} at {place} of {len(content)}", (file,), may, slices)


def unprotected(file, content, place):
    """What bytes may change from a place on, or by a new length (``None``), that no checksum and no rule guards."""
    name = file.name.lower()
    if CONTOUR.fullmatch(name):  # numbers as good as others
        return {LABEL}, 1
    if name.endswith((".json", ".csv", ".cfg", ".txt")):
        return {LABEL} if name == "dataset.json" else set(), MANY  # which says what values mean
    is_label = any(word in file.as_posix() for word in ("_gt.", "_rv.", "labels", "Labels", "Contours", "masks"))
    voxels = {LABEL} if is_label else {IMAGE}
    if content[128:132] == b"DICM":
        return _unprotected_dicom(content, place)
    if name.endswith((".mhd", ".hdr")):
        return {AFFINE, *voxels}, MANY
    if name.endswith((".img", ".raw")):
        return (voxels if place is not None else set()), MANY
    if name.endswith((".nii", ".nrrd", ".mha")) and place is not None:
        start = 352 if name.endswith(".nii") else 600
        return (voxels if place >= start else {AFFINE, *voxels}), MANY
    return set(), MANY


def _unprotected_dicom(content, place):
    pixels = content.rfind(b"\xe0\x7f\x10\x00")  # the tag of the pixels
    has_many = b"\x28\x00\x08\x00IS" in content[:pixels]  # frames, with nothing to compare them with
    if place is not None and place > pixels + 8:
        return {IMAGE}, MANY if has_many else 1  # one damage may reach from the pixels of a frame into the next
    if has_many:
        return {IMAGE, AFFINE}, MANY
    return set(), MANY


def change_content(rng, folder, file, files):
    """A file that is whole, and says something else."""
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr")):
        return (change_voxel if rng.random() < 0.4 and name.endswith(".gz") else change_nifti_header)(rng, file)
    if name.endswith(".png"):
        return change_png(rng, file)
    if name.endswith((".nrrd", ".mha", ".mhd")):
        return change_itk_header(rng, file)
    if name.endswith(".json") and rng.random() < 0.7:
        return change_json(rng, file)
    if name.endswith((".csv", ".cfg", ".txt", ".json")):
        return change_lines(rng, file)
    if file.read_bytes()[128:132] == b"DICM":
        return change_dicom(rng, file)
    return None


FIELDS = {
    "pixdim": [0, -1, 1, 2.5, 80, 1e9, np.nan],
    "qform_code": [0, 1, 2, 77],
    "sform_code": [0, 1, 2, 77],
    "quatern_b": [0, 0.6, 3, np.nan],
    "qoffset_x": [0, 55, 1e9, np.nan],
    "srow_x": [0, 1, 9, np.inf],
    "srow_z": [0, 1, 9, np.nan],
    "scl_slope": [0, 1, 2, -1, 1e300, np.nan],
    "scl_inter": [0, 7, -1, np.inf],
    "datatype": [2, 4, 8, 16, 64, 128, 256, 512, 1792, 0],
    "bitpix": [8, 16, 1, -8],
    "dim": [0, 1, 2, 3, 9, 96, -5, 32767],
    "vox_offset": [0, 352, 348, 400, -1, 1e9],
    "magic": [b"n+1", b"ni1", b"", b"n+2"],
    "xyzt_units": [0, 1, 2, 3, 10, 255],
    "sizeof_hdr": [0, 348, 540],
}


def change_nifti_header(rng, file):
    """A field of a NIfTI header, under a checksum that is right."""
    content = file.read_bytes()
    is_packed = content[:2] == b"\x1f\x8b"
    if is_packed:
        content = gzip.decompress(content)
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype)[0].copy()
    field = rng.choice(sorted(FIELDS))
    with np.errstate(all="ignore"):
        value = rng.choice(FIELDS[field])
        if header[field].ndim:
            header[field][rng.randrange(header[field].size)] = value
        else:
            header[field] = value
    changed = header.tobytes() + content[348:]
    if changed == content:
        return None
    file.write_bytes(gzip.compress(changed, 1) if is_packed else changed)
    voxels, _ = unprotected(file.with_name(file.stem + ".img"), b"", 1)
    return Damage(f"header: {field} {value}", (file,), {AFFINE, *voxels})


def change_voxel(rng, file):
    """Some voxels of a volume, under a checksum that is right."""
    content = gzip.decompress(file.read_bytes())
    size = 2 if content[70] in (4, 8) else 1
    place = 352 + size * rng.randrange((len(content) - 352) // size)
    value = rng.choice([1, 2, 3, 4, 7, 200])
    changed = content[:place] + value.to_bytes(size, "little") + content[place + size :]
    if changed == content:
        return None
    file.write_bytes(gzip.compress(changed, 1))
    voxels, _ = unprotected(file.with_name(file.stem + ".img"), b"", 1)
    return Damage(f"voxel at {place}: {value}", (file,), voxels, 1)


def change_png(rng, file):
    """A picture that was saved again: with another value, of another kind, of another size."""
    from PIL import Image

    with Image.open(file) as opened:
        image = opened.copy()
    kind = rng.choice(["pixel", "mode", "size", "turn"])
    if kind == "pixel":
        value = rng.choice([0, 1, 128, 255])
        point = rng.randrange(image.width), rng.randrange(image.height)
        changed = image.copy()
        changed.putpixel(point, value if image.mode == "L" else (value,) * len(image.getbands()))
    elif kind == "mode":
        changed = image.convert(
            rng.choice(["L", "RGB", "RGBA", "P", "1", "I;16" if image.mode == "L" else "CMYK", "LA"])
        )
        if changed.mode == "CMYK":
            changed = changed.convert("RGB")
    elif kind == "size":
        changed = image.resize((image.width + rng.choice([-1, 1]), image.height))
    else:
        changed = image.rotate(180)
    changed.save(file, format="PNG")
    is_label = {"Labels", "masks"} & {*file.parts}
    return Damage(f"picture: {kind}", (file,), {LABEL if is_label else IMAGE}, 1)


def change_itk_header(rng, file):
    """A line of the text before the voxels."""
    content = file.read_bytes()
    end = min(content.find(b"\n\n") + 1 or len(content), content.find(b"ElementDataFile") + 1 or len(content))
    lines = content[:end].split(b"\n")
    place = rng.randrange(len(lines))
    kind = rng.choice(["drop", "number", "number", "twice"])
    line = lines[place]
    if kind == "drop":
        lines[place : place + 1] = []
    elif kind == "twice":
        lines.insert(place, line)
    else:
        lines[place] = re.sub(rb"-?\d+(\.\d+)?", rng.choice([b"0", b"-1", b"7", b"1e9", b"nan", b"9999999"]), line)
    changed = b"\n".join(lines) + content[end:]
    if changed == content:
        return None
    file.write_bytes(changed)
    return Damage(f"header: {kind} {line[:40]!r}", (file,), {AFFINE, *unprotected(file, content, 0)[0]})


def change_json(rng, file):
    """A value of a document, anywhere in it."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    parent, key = document, rng.choice([*document])
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = rng.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
    value = rng.choice(["drop", None, True, "", "../x", "\0", [], {}, -1, 10**30, 1.5, "1", "a\ud800"])
    what = f"json: {key!r} {value!r}"
    if value == "drop":
        del parent[key]
    else:
        parent[key] = value
    file.write_text(json.dumps(document), encoding="utf-8")
    # Lists may be shorter, and subjects have other names: nothing else says what they were.
    return Damage(what, (file,), {LABEL, LOST, NEW})


def change_lines(rng, file):
    """A table or another text: a line or a cell less, twice, or another; another encoding."""
    content = file.read_bytes()
    text = content.decode("utf-8", "replace")
    lines = text.splitlines()
    if not lines:
        return None
    place = rng.randrange(len(lines))
    kind = rng.choice(["drop", "twice", "swap", "cell", "utf-16", "latin-1", "separator", "ends", "quote"])
    if kind == "drop":
        del lines[place]
    elif kind == "twice":
        lines.insert(place, lines[place])
    elif kind == "swap":
        lines.insert(rng.randrange(len(lines)), lines.pop(place))
    elif kind == "cell":
        cells = re.split(r"([,:; ])", lines[place])
        cells[rng.randrange(len(cells))] = rng.choice(["", "-1", "1", "nan", "x", "Ü", "999999999999"])
        lines[place] = "".join(cells)
    elif kind == "separator":
        lines = [re.sub("[, ]", rng.choice([";", "\t"]), line) for line in lines]
    elif kind == "quote":
        lines[place] += '"'
    encoding = kind if kind in ("utf-16", "latin-1") else "utf-8"
    changed = ("\r" if kind == "ends" else "\n").join([*lines, ""]).encode(encoding, "replace")
    if changed == content:
        return None
    file.write_bytes(changed)
    may, slices = unprotected(file, content, None)
    return Damage(f"text: {kind} of line {place + 1}", (file,), may, slices)


# Elements, and what may stand there by mistake. The slope of one slice may be what it likes, so it is not among them.
ELEMENTS = {
    "ImagePositionPatient": [[0, 0, 0], [-60, 30, 94], [-59, 30, 95], [-66.4, 34.8, 95], [1e9, 0, 0], "", None],
    "ImageOrientationPatient": [[1, 0, 0, 0, 1, 0], [0.6, 0.8, 0, 0, 0.01, -1], [0, 0, 0, 0, 0, 0], "", None],
    "PixelSpacing": [[1.25, 1.5], [1.5, 1.3], [0, 0], [-1.5, 1.25], "", None],
    "InstanceNumber": [0, 1, 3, 7, 99, -4, 2**31, "", None],
    "SliceThickness": ["1", "0", "-8", "800", None],
    "SpacingBetweenSlices": ["1", "0", "-8", "800", None],
    "TriggerTime": ["0", "11", "60", "91", "500", "-3", "", None],
    "AcquisitionTime": ["120000", "x", "", None],
    "SeriesInstanceUID": ["1.2.3", "", None],
    "StudyInstanceUID": ["1.2.3", None],
    "SOPInstanceUID": ["1.2.3", None],
    "FrameOfReferenceUID": ["1.2.3", None],
    "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.3", None],
    "SeriesNumber": [0, 4, 99, "", None],
    "PatientID": ["Y", "", None],
    "ImageType": [["ORIGINAL", "PRIMARY", "P"], "", None],
    "EchoTime": ["2.4", "", None],
    "Modality": ["SR", "CT", None],
    "Rows": [7, 8, 10, 0, None],
    "Columns": [9, 6, 8, None],
    "BitsAllocated": [8, 12, 32, None],
    "BitsStored": [16, 8, 0, None],
    "HighBit": [15, None],
    "PixelRepresentation": [1, 7, None],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", "PALETTE COLOR", "", None],
    "SamplesPerPixel": [3, 0, None],
    "NumberOfFrames": ["2", "0"],
}


def change_dicom(rng, file):
    """One wrong value in a header."""
    keyword = rng.choice(sorted(ELEMENTS))
    value = rng.choice(ELEMENTS[keyword])
    content = file.read_bytes()
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(file)
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
        dataset.save_as(file)
    may, slices = _unprotected_dicom(content, None)
    if keyword == "TriggerTime" and dataset.get("InstanceNumber") in (None, "", 1):
        may, slices = {IMAGE}, 1  # nothing else tells the order of phases
    return Damage(f"header: {keyword} {value!r}", (file,), may, slices)


def change_place(rng, folder, file, files):
    """A file that is gone, under another name, there twice, another one's, or no file at all."""
    kind = rng.choice(
        ["remove", "rename", "number", "copy", "swap", "swap", "directory", "fifo", "loop", "broken", "device"]
    )
    # A contour or a stack less is a data set as good as before.
    less = {LOST} if CONTOUR.fullmatch(file.name) or folder.name == "stacks" else set()
    if kind in ("rename", "number", "copy"):
        target = file.with_name(rng.choice(ODD_NAMES).format(file.name))
        if kind != "rename":
            numbers = [*re.finditer(r"\d+", file.name)]
            if not numbers:
                return None
            found = rng.choice(numbers)
            number = str(int(found[0]) + rng.choice([1, 2, 10])).zfill(len(found[0]))
            target = file.with_name(file.name[: found.start()] + number + file.name[found.end() :])
        if target.exists():
            return None
        if kind == "copy":
            shutil.copy(file, target)
            return Damage(f"copy to {target.name!r}", (file, target), {NEW} if less else set())
        file.rename(target)
        return Damage(f"rename to {target.name!r}", (file, target), {*less, NEW})
    if kind == "swap":
        other = rng.choice([other for other in files if other.suffix == file.suffix])
        contents = file.read_bytes(), other.read_bytes()
        if contents[0] == contents[1]:
            return None
        file.write_bytes(contents[1])
        other.write_bytes(contents[0])
        return Damage(f"swap with {other.relative_to(folder)}", (file, other), _swapped(file, other, contents[0]))
    file.unlink()
    if kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "broken":
        file.symlink_to(file.with_name("nothing"))
    elif kind == "device":
        file.symlink_to(rng.choice(["/dev/zero", "/dev/null"]))
    return Damage(kind, (file,), less if kind in ("remove", "directory") else set())


def _swapped(file, other, content):
    """What may change when two files have changed their names: all that no header knows."""
    if CONTOUR.fullmatch(file.name) or file.suffix == ".txt":
        return {LABEL}
    if content[128:132] == b"DICM":
        return {IMAGE} if "InstanceNumber" not in pydicom.dcmread(file) else set()
    if file.suffix in (".csv", ".json", ".cfg"):
        return set()
    return {IMAGE, LABEL, AFFINE}


def change_folder(rng, folder, file, files):
    """A folder that is gone, under another name, there twice, or a link to itself."""
    home = rng.choice([parent for parent in file.parents if folder in parent.parents] or [folder])
    if home == folder:
        return None
    kind = rng.choice(["remove", "rename", "copy", "loop", "fifo"])
    if kind == "remove":
        shutil.rmtree(home)
        return Damage("folder removed", (home,), {LOST})
    if kind == "loop":
        (home / "loop").symlink_to(rng.choice([home, home.parent]))
        return Damage("a link to itself", (home,))
    if kind == "fifo":
        os.mkfifo(home / f"pipe{rng.choice(['', '.dcm', '.nii.gz', '.csv', '.png', '.json'])}")
        return Damage("a pipe in a folder", (home,))
    target = home.with_name(rng.choice(ODD_NAMES).format(home.name))
    if kind == "copy":
        shutil.copytree(home, target)
    else:
        home.rename(target)
    return Damage(f"folder {kind} to {target.name!r}", (home, target), {LOST, NEW} if kind == "rename" else {NEW})
