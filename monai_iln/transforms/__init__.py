"""MONAI transforms that MONAI lacks: stacks of slices and their geometry, the ILN paper's rotations, contours.

As in MONAI every transform has an array and a dictionary version (``TakeSlice`` and ``TakeSliced``, which is also
``TakeSliceD`` and ``TakeSliceDict``), takes channels first, and keeps a ``MetaTensor``'s affine and trace.
"""

from monai_iln.transforms.components import (
    LargestComponent,
    LargestComponentD,
    LargestComponentd,
    LargestComponentDict,
    LargestComponentSlicewise,
    LargestComponentSlicewiseD,
    LargestComponentSlicewised,
    LargestComponentSlicewiseDict,
)
from monai_iln.transforms.contours import (
    RasterizeContour,
    RasterizeContourD,
    RasterizeContourd,
    RasterizeContourDict,
)
from monai_iln.transforms.doubts import DoubtSlices, DoubtSlicesD, DoubtSlicesd, DoubtSlicesDict
from monai_iln.transforms.geometry import (
    StandardizeInPlane,
    StandardizeInPlaneD,
    StandardizeInPlaned,
    StandardizeInPlaneDict,
)
from monai_iln.transforms.intensity import (
    ScaleIntensitySlicewise,
    ScaleIntensitySlicewiseD,
    ScaleIntensitySlicewised,
    ScaleIntensitySlicewiseDict,
)
from monai_iln.transforms.io import (
    LoadStack,
    LoadStackD,
    LoadStackd,
    LoadStackDict,
    SaveStack,
    SaveStackD,
    SaveStackd,
    SaveStackDict,
    StackWriter,
)
from monai_iln.transforms.ranges import KeepSlices, KeepSlicesD, KeepSlicesd, KeepSlicesDict
from monai_iln.transforms.rotations import (
    FixedRotations,
    RandRotateSet,
    RandRotateSetD,
    RandRotateSetd,
    RandRotateSetDict,
)
from monai_iln.transforms.slice_dataset import SliceDataset
from monai_iln.transforms.slices import (
    RandSliceSamples,
    RandSliceSamplesD,
    RandSliceSamplesd,
    RandSliceSamplesDict,
    TakeSlice,
    TakeSliceD,
    TakeSliced,
    TakeSliceDict,
)

__all__ = [
    "DoubtSlices",
    "DoubtSlicesD",
    "DoubtSlicesDict",
    "DoubtSlicesd",
    "FixedRotations",
    "KeepSlices",
    "KeepSlicesD",
    "KeepSlicesDict",
    "KeepSlicesd",
    "LargestComponent",
    "LargestComponentD",
    "LargestComponentDict",
    "LargestComponentSlicewise",
    "LargestComponentSlicewiseD",
    "LargestComponentSlicewiseDict",
    "LargestComponentSlicewised",
    "LargestComponentd",
    "LoadStack",
    "LoadStackD",
    "LoadStackDict",
    "LoadStackd",
    "RandRotateSet",
    "RandRotateSetD",
    "RandRotateSetDict",
    "RandRotateSetd",
    "RandSliceSamples",
    "RandSliceSamplesD",
    "RandSliceSamplesDict",
    "RandSliceSamplesd",
    "RasterizeContour",
    "RasterizeContourD",
    "RasterizeContourDict",
    "RasterizeContourd",
    "SaveStack",
    "SaveStackD",
    "SaveStackDict",
    "SaveStackd",
    "ScaleIntensitySlicewise",
    "ScaleIntensitySlicewiseD",
    "ScaleIntensitySlicewiseDict",
    "ScaleIntensitySlicewised",
    "SliceDataset",
    "StackWriter",
    "StandardizeInPlane",
    "StandardizeInPlaneD",
    "StandardizeInPlaneDict",
    "StandardizeInPlaned",
    "TakeSlice",
    "TakeSliceD",
    "TakeSliceDict",
    "TakeSliced",
]
