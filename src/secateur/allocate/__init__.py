"""How much where: names and a ratio to an allocation."""
