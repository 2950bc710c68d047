"""What a run would do, and what could be done: nothing here changes a model."""
