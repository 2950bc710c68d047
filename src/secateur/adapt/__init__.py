"""What a model looks like, as data: families, blocks, stages."""
