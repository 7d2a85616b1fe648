"""`bigrun doctor`: whether this machine, its device, its torch and its disk are fit for a run of weeks."""
