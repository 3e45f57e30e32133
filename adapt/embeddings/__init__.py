"""The adapted base: an ordinary checkpoint with rows for the new tokens."""
