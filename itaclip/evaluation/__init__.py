"""Evaluation: the command, its loop, journal and records, published figures, grids of settings."""
