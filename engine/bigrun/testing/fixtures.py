"""Fixtures for plugin authors; pytest loads this module through its entry point."""
