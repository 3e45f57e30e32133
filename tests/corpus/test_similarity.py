"""Similarity and split against brute force: exact pairs, no leak, no matter of order."""

from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapt.corpus import similarity as similarity_module
from adapt.corpus.clean import fold
from adapt.corpus.similarity import ShingleSets, jaccard, shingle_sets, similar_pairs, words_of
from adapt.corpus.split import (
    clusters,
    later_near_duplicates,
    sides,
    similar_to,
    similar_to_first,
)

# Few words, so that random texts resemble each other; templates, as real glossaries have them.
WORDS = st.sampled_from("a b c d e".split())
TEXT = st.one_of(
    st.lists(WORDS, max_size=14).map(" ".join),
    st.lists(WORDS, max_size=4).map(lambda w: f"any abnormality of the {' '.join(w)} of the eye"),
    st.sampled_from(["!", "?!", "心臟病", "心臟病的症狀", "心臟病的定義"]),
)
TEXTS = st.lists(TEXT, max_size=25).map(lambda texts: list(dict.fromkeys(map(fold, texts))))
THRESHOLD = st.sampled_from([1e-10, 0.1, 0.3, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 1.0])


# Any characters, for what is a word; and a few, so that such texts share some.
ANY_TEXT = st.text(max_size=20) | st.lists(
    st.sampled_from(["心", "臟", "a", "bé", " ", "-", "々", "ー", "\uf900", "ｱ9", "\ud800"]),
    max_size=12,
).map("".join)
ANY_TEXTS = st.lists(ANY_TEXT.map(fold), min_size=2, max_size=8)


# Sets of few shingles, so that many texts share one and chains of similar texts are common.
SETS = st.lists(st.frozensets(st.integers(0, 30), min_size=1, max_size=15), max_size=20)
SHARED = [*range(6)]
CHAIN = [
    frozenset([*SHARED, *range(10, 19)]),
    frozenset([*SHARED, *range(10, 14), *range(20, 25)]),
    frozenset([*SHARED, *range(20, 29)]),
]


@contextmanager
def small_pieces():
    """As for text larger than memory: in files, with all that is held at a time a few numbers."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        for name, size in (("_PART", 4), ("_EVENTS", 3), ("_VERIFIED_SHINGLES", 5), ("_CROWD", 3)):
            patch.setattr(f"adapt.corpus.similarity.{name}", size)
        patch.setattr("adapt.corpus.shingles._PIECE", 64)
        patch.setattr("adapt.corpus.shingles._MOST_CELLS", 8)
        yield lambda texts: shingle_sets(texts, Path(folder))


def trigrams(text: str) -> set:
    words = words_of(text)
    if len(words) < 3:
        return {" ".join(words) or text}
    return set(zip(words, words[1:], words[2:], strict=False))


def similarity(one: str, other: str) -> float:
    a, b = trigrams(one), trigrams(other)
    return len(a & b) / len(a | b)


def similar(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if similarity(texts[i], texts[j]) >= threshold
    }


def chained(count: int, pairs: set[tuple[int, int]]) -> set[frozenset[int]]:
    """The parts that chains of pairs join."""
    joined = {i: frozenset([i]) for i in range(count)}
    for i, j in pairs:
        both = joined[i] | joined[j]
        joined.update(dict.fromkeys(both, both))
    return set(joined.values())


def parted(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


def split(texts, seed=0, test=0.3, validation=0.2, threshold=0.5):
    chosen = sides(
        texts,
        shingle_sets(texts),
        seed=seed,
        test_fraction=test,
        validation_fraction=validation,
        leak_threshold=threshold,
    )
    return dict(zip(texts, chosen, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("renal-cyst, left (2 cm)", ["renal", "cyst", "left", "2", "cm"]),
        ("心臟 ok病", ["心", "臟", "ok", "病"]),
        ("!?", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@given(TEXTS, THRESHOLD)
def test_pairs_are_exactly_those_of_brute_force(texts, threshold):
    found = [
        (int(i), int(j))
        for left, right in similar_pairs(
            shingle_sets(texts), threshold, lambda left, right: np.ones(len(left), dtype=bool)
        )
        for i, j in zip(left, right, strict=True)
    ]
    assert set(found) == similar(texts, threshold)


@given(ANY_TEXTS | TEXTS.filter(lambda texts: len(texts) > 1))
def test_jaccard(texts):
    i, j = (np.array(side) for side in zip(*combinations(range(len(texts)), 2), strict=True))
    expected = [similarity(texts[a], texts[b]) for a, b in zip(i, j, strict=True)]
    assert jaccard(shingle_sets(texts), i, j).tolist() == expected


@given(TEXTS, THRESHOLD)
def test_files_and_small_pieces_give_the_same_pairs(texts, threshold):
    with small_pieces() as sets_of:
        sets = sets_of(texts)
        found = set()
        for left, right in similar_pairs(sets, threshold, lambda one, other: one < other):
            found |= set(zip(left.tolist(), right.tolist(), strict=True))
    assert found == similar(texts, threshold)


@given(SETS, THRESHOLD, st.integers(0, 20))
@example(CHAIN, 0.5, 1)
@example([*CHAIN[:2], frozenset([*SHARED, 29]), CHAIN[2]], 0.5, 2)
def test_what_is_settled_in_a_crowd_changes_nothing(texts, threshold, first):
    first = min(first, len(texts))
    sizes = [len(one) for one in texts]
    sets = ShingleSets(
        np.cumsum([0, *sizes]), np.array([i for one in texts for i in sorted(one)], dtype=np.int64)
    )
    pairs = {
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if len(texts[i] & texts[j]) / len(texts[i] | texts[j]) >= threshold
    }
    with small_pieces():
        labels = clusters(sets, threshold)
        repeated = later_near_duplicates(sets, threshold)
        echoes = similar_to_first(sets, first, threshold)
    assert parted(labels) == chained(len(texts), pairs)
    assert set(np.flatnonzero(repeated).tolist()) == {j for _, j in pairs}
    echoed = {j - first for i, j in pairs if i < first <= j}
    assert set(np.flatnonzero(echoes).tolist()) == echoed


@given(TEXTS, THRESHOLD)
def test_clusters_are_chains_of_similar_texts(texts, threshold):
    labels = clusters(shingle_sets(texts), threshold)
    assert parted(labels) == chained(len(texts), similar(texts, threshold))


def test_a_crowd_of_copies_is_no_more_work_than_its_texts(monkeypatch):
    """Each is compared with the first one, not with every other."""
    page = " ".join(f"word{i}" for i in range(60))
    texts = [f"{page} copy {i}" for i in range(1_000)]
    compared = []

    def counted(sets, left, right):
        compared.append(len(left))
        return jaccard(sets, left, right)

    monkeypatch.setattr("adapt.corpus.similarity.jaccard", counted)
    sets = shingle_sets(texts)
    assert len(set(clusters(sets, 0.5).tolist())) == 1
    assert sum(later_near_duplicates(sets, 0.8)) == 999
    assert sum(compared) <= 2 * len(texts)


@pytest.mark.parametrize("domain", [0, 1, 50])
def test_a_crowd_of_general_text_is_no_more_work_than_its_texts(monkeypatch, domain):
    """General texts that resemble each other, but not the domain, are not paired."""
    page = " ".join(f"word{i}" for i in range(60))
    own = [f"{' '.join(f'own{j}' for j in range(200))} {i}" for i in range(domain)]
    general = [f"{page} copy {i}" for i in range(1_000)]
    paired = []

    def counted(part, texts, one, other):
        paired.append(len(one))
        return possible(part, texts, one, other)

    possible = similarity_module._possible
    monkeypatch.setattr(similarity_module, "_possible", counted)
    for texts in ([*own, *general], [*own, f"{page} and more", *general]):
        first = len(texts) - len(general)
        found = similar_to_first(shingle_sets(texts), first, 0.5)
        assert found.all() if first > domain else not found.any()
    shared = 62 + 200  # shingles that a text may share with others
    assert sum(paired) <= 4 * shared * (len(general) + domain)


def test_the_rarer_the_smaller():
    texts = [f"a page that all have and then some of its own such as {i}" for i in range(50)]
    sets = shingle_sets(texts)
    last = sets.shingles[sets.starts[1:] - 1]
    assert len(set(last.tolist())) == 1
    first = sets.shingles[sets.starts[:-1]]
    assert len(set(first.tolist())) == 50


@given(TEXTS, THRESHOLD)
def test_later_near_duplicates(texts, threshold):
    expected = {j for _, j in similar(texts, threshold)}
    found = later_near_duplicates(shingle_sets(texts), threshold)
    assert set(np.flatnonzero(found).tolist()) == expected


@given(TEXTS, st.integers(0, 25), THRESHOLD)
def test_similar_to_first(texts, first, threshold):
    first = min(first, len(texts))
    expected = {j - first for i, j in similar(texts, threshold) if i < first <= j}
    found = similar_to_first(shingle_sets(texts), first, threshold)
    assert set(np.flatnonzero(found).tolist()) == expected


@given(TEXTS, st.data(), THRESHOLD)
def test_similar_to(texts, data, threshold):
    """Any two sides, in any order; a text of neither is not asked about and tells nothing."""
    kinds = st.lists(st.sampled_from(["sought", "other", ""]), min_size=25, max_size=25)
    kind = np.array(data.draw(kinds)[: len(texts)], dtype=object)
    expected = {
        i
        for pair in similar(texts, threshold)
        for i, j in (pair, pair[::-1])
        if (kind[i], kind[j]) == ("sought", "other")
    }
    with small_pieces() as sets_of:
        found = similar_to(sets_of(texts), kind == "sought", kind == "other", threshold)
    assert set(np.flatnonzero(found).tolist()) == expected


@given(TEXTS, st.integers(0, 5), THRESHOLD)
def test_nothing_leaks(texts, seed, threshold):
    side = split(texts, seed, threshold=threshold)
    for i, j in similar(texts, threshold):
        assert side[texts[i]] == side[texts[j]]


@given(TEXTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert split(texts) == split(shuffled)


def test_a_larger_test_side_keeps_the_smaller_one():
    texts = [f"text number {i} is about {i * 7919} things" for i in range(300)]
    few, many = split(texts, test=0.1), split(texts, test=0.3)
    assert {t for t in texts if few[t] == "test"} < {t for t in texts if many[t] == "test"}
    assert split(texts, seed=1, test=0.1) != few


def test_fractions_are_met():
    texts = [f"{i} {i + 1} {i + 2} {i + 3}" for i in range(0, 20000, 10)]
    chosen = list(split(texts, test=0.1, validation=0.05).values())
    assert 150 < chosen.count("test") < 250
    assert 60 < chosen.count("validation") < 140
