"""Where work runs: devices, and processes that share it."""
