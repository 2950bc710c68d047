"""Measurements: a model to numbers."""
