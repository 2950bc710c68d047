"""Prune trained models under a budget and get back a smaller model that loads anywhere."""
