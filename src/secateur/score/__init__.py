"""What matters: a weight and its statistics to a score."""
