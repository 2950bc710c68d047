"""Random forests for prediction on a budget: exact pruning under the cost of acquiring features (Nan et al. 2016)."""
