"""`bigrun data import`: DICOM series, NIfTI and NRRD volumes become 16-bit slices and an index."""
