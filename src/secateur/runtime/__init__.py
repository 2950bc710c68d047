"""Products with packed sparse weights that are faster than dense ones where a model decodes on a CPU."""
