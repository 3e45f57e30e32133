"""The vocabulary: a base tokenizer and domain text in, an adapted tokenizer out."""

from adapt.vocab.build import Material, adapt_vocabulary, refuse_other_families
from adapt.vocab.delta import Kept, NewToken, VocabDelta
from adapt.vocab.files import OUTPUT, TOKENIZER_FILES, load_tokenizer
from adapt.vocab.result import Vocabulary

__all__ = [
    "OUTPUT",
    "TOKENIZER_FILES",
    "Kept",
    "Material",
    "NewToken",
    "VocabDelta",
    "Vocabulary",
    "adapt_vocabulary",
    "load_tokenizer",
    "refuse_other_families",
]
