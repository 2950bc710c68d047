"""Words everybody uses: patterns, keep masks, cuts, budgets, errors, linear algebra."""
