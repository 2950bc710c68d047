"""Make it really smaller: slices, configs, and the proof that nothing else changed."""
