"""Masks of language models that are learned: the flow from a text to a folder, files of masks, refit on a mask."""
