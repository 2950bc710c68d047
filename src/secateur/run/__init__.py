"""Recipes, checkpoints and the one function that prunes a model."""
