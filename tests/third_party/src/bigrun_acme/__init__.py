"""Plugins for bigrun by Acme: `variance-penalty` and `slowest-step`."""
