"""Training: the adapted base in, an adapter out."""

from adapt.training.run import PhaseResult, Trained, train

__all__ = ["PhaseResult", "Trained", "train"]
