"""Allocations that are compared by what the masked model loses."""
