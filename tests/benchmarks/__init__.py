"""Measurements and comparisons; not part of the test run."""
