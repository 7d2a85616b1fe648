"""reference-band and `bigrun band`: whether the curves of a run go where those of good runs went."""
