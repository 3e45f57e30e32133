"""Units inside words, learned without selection, against `bpe-continue`, an independent learner.

BPE is greedy: each merge is of a pair that no other pair outnumbers. So two runs over the same
pieces can only differ where pairs are equally frequent. Hence a replay of either's merges, with
pairs counted anew before each, explains every unit that the other has not: the first merge that
differs has the highest count in both, and from there on each is greedy on its own.
"""

import random
from collections import Counter
from itertools import chain, pairwise

import pytest

from adapt.vocab.candidates import Learning
from adapt.vocab.extend import Ground, extend
from adapt.vocab.spec import build, merges, spec_of, vocabulary

from .conftest import BYTE_LEVEL, PROSE, tiny

bpe_continue = pytest.importorskip("bpe_continue", reason="bpe-continue is not installed")

# Line breaks and runs of blanks are in none of our units by rule, so none are in the text.
SENTENCES = [" ".join(text.split()) for text in PROSE]


def corpus(seed, size=60):
    """Sentences of drawn words; each document comes twice, so that no unit is of one document."""
    rng = random.Random(seed)
    words = " ".join(SENTENCES).split()
    texts = [*SENTENCES, *(" ".join(rng.choices(words, k=12)) for _ in range(size))]
    return [*texts, *texts]


def ours(spec, texts, budget):
    learning = Learning(budget, multiword=False, min_frequency=1)
    return extend(Ground(spec), learning, lambda: iter(texts), tuple).spec


def theirs(spec, texts, budget):
    size = len(set(vocabulary(spec).values())) + budget
    return spec_of(
        bpe_continue.continue_training(
            build(spec), texts=texts, vocab_size=size, show_progress=False
        )
    )


def new_merges(base, new):
    return merges(new)[len(merges(base)) :]


def new_tokens(base, new):
    return vocabulary(new).keys() - vocabulary(base).keys()


def tokens(spec, texts):
    return sum(map(len, build(spec).encode_batch_fast(texts, add_special_tokens=False)))


def pieces(spec, texts):
    """Pieces of the pre-tokenizer, as the base's tokens, with their counts."""
    found = Counter()
    for one in build(spec).encode_batch(texts, add_special_tokens=False):
        of_word = {}
        for word, token in zip(one.word_ids, one.tokens, strict=True):
            of_word.setdefault(word, []).append(token)
        found.update(tuple(symbols) for symbols in of_word.values() if len(symbols) > 1)
    return found


def merged(symbols, pair):
    symbols, i = list(symbols), 0
    while i < len(symbols) - 1:
        if (symbols[i], symbols[i + 1]) == pair:
            symbols[i : i + 2] = ["".join(pair)]
        i += 1
    return tuple(symbols)


def ungreedy(base, new, texts):
    """Merges up to the last new token's that some other pair outnumbered at their turn."""
    counts, wrong = pieces(base, texts), []
    left = set(new_tokens(base, new))
    for pair in new_merges(base, new):
        if not left:  # a merge of tokens that are all there costs nothing, so it may come later
            break
        pairs = Counter()
        for symbols, count in counts.items():
            for neighbours in pairwise(symbols):
                pairs[neighbours] += count
        if pairs[pair] != max(pairs.values()):
            wrong.append((pair, pairs[pair], max(pairs.values())))
        changed = Counter()
        for symbols, count in counts.items():
            changed[merged(symbols, pair)] += count
        counts = changed
        left.discard("".join(pair))
    return wrong


def compare(base, texts, budget):
    mine, other = ours(base, texts, budget), theirs(base, texts, budget)
    assert len(new_tokens(base, mine)) == len(new_tokens(base, other)) == budget
    assert tokens(mine, texts) <= tokens(other, texts) < tokens(base, texts)
    assert ungreedy(base, mine, texts) == []
    if new_tokens(base, mine) != new_tokens(base, other):
        assert ungreedy(base, other, texts) == []


@pytest.mark.parametrize("kind", [kind for kind in BYTE_LEVEL if kind != "gpt4o"])
@pytest.mark.parametrize("seed", range(3))
def test_units_inside_words_are_those_of_bpe_continue(kind, seed):
    compare(spec_of(tiny(kind).backend_tokenizer), corpus(seed), 40)


def test_the_oracle_refuses_what_we_extend():
    base = spec_of(tiny("gpt4o").backend_tokenizer)
    with pytest.raises(OSError, match="dense range of ids"):
        theirs(base, corpus(0), 40)
    assert ungreedy(base, ours(base, corpus(0), 40), corpus(0)) == []


def test_units_of_a_packaged_base_are_those_of_bpe_continue(smollm2):
    rare = "nephrolithiasis hypercalciuria zygodactyly osteochondrodysplasia brachydactyly".split()
    texts = [*corpus(0), *chain.from_iterable([f" {word}", word] * 7 for word in rare)]
    compare(spec_of(smollm2.backend_tokenizer), texts, 40)


def test_a_merge_out_of_turn_is_noticed():
    base, texts = spec_of(tiny("gpt2").backend_tokenizer), corpus(0)
    mine = ours(base, texts, 40)
    pairs = new_merges(base, mine)
    late = {**mine, "model": {**mine["model"], "merges": [*merges(base), *pairs[1:], pairs[0]]}}
    assert ungreedy(base, late, texts)
