"""Logarithmic pruning is all you need (Orseau et al. 2020) as a program: a random network holds the target."""
