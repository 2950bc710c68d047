"""What a decoder of any kind looks like, read off what it computes."""
