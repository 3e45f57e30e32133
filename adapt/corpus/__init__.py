"""Domain text, read, cleaned and split so that nothing leaks."""

from adapt.corpus.build import build_corpus
from adapt.corpus.check import check_corpus
from adapt.corpus.result import Corpus, CorpusStatistics, TextStatistics, open_corpus
from adapt.corpus.split import SPLITS, Split

__all__ = [
    "SPLITS",
    "Corpus",
    "CorpusStatistics",
    "Split",
    "TextStatistics",
    "build_corpus",
    "check_corpus",
    "open_corpus",
]
