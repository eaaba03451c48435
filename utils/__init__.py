"""Machinery around the method, one subject a file."""
