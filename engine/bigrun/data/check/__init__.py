"""Is a data set fit to be trained on? What data sets may say of themselves, and what a check finds."""

from bigrun.data.check.finding import Finding, Intensity

__all__ = ["Finding", "Intensity"]
