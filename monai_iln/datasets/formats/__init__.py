"""One file's bytes in, arrays and geometry out: NIfTI and Analyze, DICOM, contours, PNG; and the files of a source."""
