"""DEPrune: depthwise-separable convolutions that lose taps and channels, and get faster."""
