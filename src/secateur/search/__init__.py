"""How much where, found by trial: candidates bred over generations, judged on the masked model."""
