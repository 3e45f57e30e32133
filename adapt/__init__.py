"""Domain adaptation of language models, from the vocabulary up."""

__version__ = "0.1.0"
