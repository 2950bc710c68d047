"""Solvers of the 0-1 program: an exact minimum cut, the paper's dual ascent, and HiGHS."""
