"""Whole experts of a mixture: what each is worth, and models without the others."""
