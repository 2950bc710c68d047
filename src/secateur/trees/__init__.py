"""Trees as arrays, the features that examples need, and the 0-1 program of pruning with its solvers."""
