"""Channel sites of any network that runs: one run with a label on every channel says which go together."""
