"""Networks that read pictures: from a name to a pruned network that loads anywhere."""
