"""The packed form of a data set: decoded images behind one another in memory-mapped files."""
