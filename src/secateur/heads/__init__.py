"""Attention heads: which matter, what happens without them, and models that have lost them."""
