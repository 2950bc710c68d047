"""Forests that are grown with the price of features in mind, and which of them to take."""
