"""Choose and repair: weight, statistics, pattern and ratio to a solution."""
