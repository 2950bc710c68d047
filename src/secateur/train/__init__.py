"""Training of pruned models: what is gone stays gone."""
