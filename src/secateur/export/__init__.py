"""Write a model in a format that others load."""
