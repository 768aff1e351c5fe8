"""Runners: one file a setting, reading like the paper's section about it."""
