"""What a model of any kind is judged by: labelled batches, their loss, and a score that is a function of sums."""
