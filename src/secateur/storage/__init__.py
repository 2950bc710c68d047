"""Folders on disk: checkpoints, model folders, the working folders of runs."""
