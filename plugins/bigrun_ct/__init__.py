"""CT slices as a data set: 16-bit PNG, in Hounsfield units, three neighbours as channels."""
