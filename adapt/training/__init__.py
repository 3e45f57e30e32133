"""Training: the adapted base in, an adapter out."""
