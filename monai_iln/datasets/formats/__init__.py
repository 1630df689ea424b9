"""One file of bytes in, arrays and geometry out: NIfTI and Analyze, DICOM, contours, archives."""
