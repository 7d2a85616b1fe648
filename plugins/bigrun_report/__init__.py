"""health-report: how a run is, in one page; and runs beside each other."""
