"""How many tokens a tokenizer needs for a text, and which words it breaks up.

A **word** is a maximal run of non-whitespace. Its **span** leaves surrounding punctuation (Unicode
categories P*) out, as the word lists do on which fertility was defined: "mellitus," is not split by
its comma. A run of punctuation alone keeps its whole span. Tokens are attributed to words by
character offsets in the running text, so that a unit which covers a word together with its
neighbours counts as one of the word's tokens. In scripts that write no spaces a "word" is a clause;
read `bytes_per_token` and `tokens_per_character` there.

Sources of the measures:

- Fertility and the proportion of continued words: Rust et al. 2021, How Good is Your Tokenizer?,
  https://aclanthology.org/2021.acl-long.243.
- Normalised sequence length: Dagan et al. 2024, Getting the most out of your tokenizer for
  pre-training and domain adaptation, https://arxiv.org/abs/2402.01035.
- Rényi efficiency: Zouhar et al. 2023, Tokenization and the Noiseless Channel,
  https://arxiv.org/abs/2306.16842.
"""

from adapt.fertility.counts import RENYI_ALPHA, measure, measure_groups, renyi_efficiency
from adapt.fertility.result import (
    METRICS,
    Fertility,
    FertilityReport,
    SplitWord,
    normalized_sequence_length,
    saved,
)

__all__ = [
    "METRICS",
    "RENYI_ALPHA",
    "Fertility",
    "FertilityReport",
    "SplitWord",
    "measure",
    "measure_groups",
    "normalized_sequence_length",
    "renyi_efficiency",
    "saved",
]
