"""The layouts that can be read, and the structures that their labels have. Importing these tables imports nothing.

To add a data set to ``monai-iln prepare folders``, copy a module of this package and name the copy in
:data:`FOLDER_LAYOUTS`: ``acdc.py`` if images and labels are volumes, ``rvsc.py`` if they are DICOM files and contours.
The module has two functions, ``holds(files)``, which recognizes the layout, and ``plan(files, label)``, which returns a
:class:`~monai_iln.datasets.readers.plan.Plan`: a function for each subject that reads it. ``files`` maps every file to
the source in which it lies.
"""

#: The layouts of ``monai-iln prepare folders``, and the module that reads each. Any other layout is *folders*.
FOLDER_LAYOUTS = {
    "acdc": "acdc",
    "mnms": "mnms",
    "emidec": "emidec",
    "nnunet": "nnunet",
    "rvsc": "rvsc",
    "pictures": "pictures",
    "folders": "any_folder",
}

#: The layouts of ``monai-iln prepare sunnybrook``.
SUNNYBROOK_LAYOUTS = ("dicom", "png")

#: The structures that label files name by values.
STRUCTURES = ("right-ventricle", "left-ventricle", "myocardium")

#: The structures that contours outline, and the kinds of contour that each of them needs.
CONTOURED_STRUCTURES = {
    "endocardium": ("i",),
    "epicardium": ("o",),
    "myocardium": ("i", "o"),
    "papillary-muscles": ("p1", "p2"),
}

#: What folders of images and of labels are called, in lower case.
IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "imagestr"})
LABEL_FOLDERS = frozenset(
    {"label", "labels", "labelstr", "mask", "masks", "seg", "segmentation", "segmentations", "gt", "contours"}
)
