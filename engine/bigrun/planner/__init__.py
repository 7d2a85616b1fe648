"""`bigrun plan`: what a run will need, memory, time and disk. Other code calls `bigrun.planner.predict.predict`."""
