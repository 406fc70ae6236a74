"""Data sets, their loading and guards, the offline check, and the preparation of raw downloads."""
