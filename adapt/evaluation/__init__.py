"""Evaluation: what the adapted model is worth, beside the base and a control."""
