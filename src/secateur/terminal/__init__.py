"""What every command shares: consoles, options by name, progress and recipes."""
