"""The checks of the data audit: each gives counts and places, and no text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from adapt.corpus.clean import fold
from adapt.corpus.patterns import DAMAGE, PRIVATE, main_script, scripts_of
from adapt.corpus.similarity import Mask, shingle_sets
from adapt.corpus.split import clusters, later_near_duplicates, sides, similar_to
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.sources import CorpusSection
from adapt.recipe.training import Phase

JOIN_BYTES = 5_000_000  # of text in which similar texts are sought
TOKEN_BYTES = 2_000_000  # of text whose tokens are counted, for each phase
NEAR = 0.5  # word-trigram Jaccard similarity of texts that tell each other's content
PLACES = 20  # kept of each finding
_LONG = 100_000  # characters
_FEW = 10  # rows of a label

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        what: In words.
        count: Occurrences, or texts where the unit says so.
        unit: What is counted.
        of: Of how many; 0 where that says nothing.
        where: The first places, `file:line`.
        warn: Whether it is worth the user's time.
    """

    what: str
    count: int
    unit: str
    of: int = 0
    where: tuple[str, ...] = ()
    warn: bool = False


@dataclass(frozen=True)
class Item:
    """A document, or a row of a task.

    Attributes:
        key: The text that decides its side of the split.
        text: All text of it.
        origin: `file:line`.
        label: Of a classification task's row.
        row: Of a task.
    """

    key: str
    text: str
    origin: str
    label: str | None = None
    row: dict[str, Any] | None = None


# -- findings ---------------------------------------------------------------------------------


def _finding(what: str, items: Iterable[Item], of: int, unit: str = "texts") -> Finding:
    """Texts that something is true of; worth a warning where there are any."""
    places = [item.origin for item in items]
    return Finding(what, len(places), unit, of, tuple(places[:PLACES]), bool(places))


def sizes(domain: Sequence[Item], general: Sequence[Item]) -> Iterator[Finding]:
    """Empty and over-long documents."""
    every = [*domain, *general]
    yield _finding("empty", (i for i in every if not i.key.strip()), len(every))
    over = f"longer than {_LONG:,} characters"
    yield _finding(over, (i for i in every if len(i.key) > _LONG), len(every))


def duplicates(items: Sequence[Item]) -> Iterator[Finding]:
    """Documents that are another one but for case and white space."""
    seen: set[str] = set()
    again = []
    for item in items:
        folded = fold(item.key)
        if folded and folded in seen:
            again.append(item)
        seen.add(folded)
    yield _finding("exact duplicates, dropped by the run", again, len(items))


def similar(
    section: CorpusSection,
    domain: Sequence[Item],
    labelled: Sequence[Item],
    seed: int,
    notes: list[str],
) -> Iterator[Finding]:
    """Near duplicates, and what the split would and does let through."""
    distinct, cut = _distinct([*domain, *labelled])
    if not distinct:
        return
    if cut:
        size = JOIN_BYTES / 1e6
        notes.append(f"similar texts were sought in the first {size:g} MB of text that differs")
    folded = list(distinct)
    sets = shingle_sets(folded)
    items = list(distinct.values())
    if section.near_duplicate is not None:
        own = {id(item) for item in domain}
        count = sum(id(item) in own for item in items)  # the domain's come first
        repeated = later_near_duplicates(sets.head(count), section.near_duplicate)
        what = f"near duplicates (similarity {section.near_duplicate:g}), dropped by the run"
        yield _finding(what, _chosen(items, repeated), count)
    labels = clusters(sets, NEAR)
    together = np.bincount(labels)[labels] > 1
    yield Finding(
        f"with a text like it (similarity {NEAR:g}): a plain shuffle would leak them",
        int(together.sum()),
        "texts",
        len(items),
        tuple(item.origin for item in _chosen(items, together))[:PLACES],
    )
    side = sides(
        folded,
        sets,
        seed=seed,
        test_fraction=section.test_fraction,
        validation_fraction=section.validation_fraction,
        leak_threshold=section.leak_threshold,
    )
    held_out = np.array([one == "test" for one in side])
    leaked = similar_to(sets, held_out, np.array([one == "train" for one in side]), NEAR)
    what = f"held out and yet like a training text (similarity {NEAR:g})"
    yield _finding(what, _chosen(items, leaked), int(held_out.sum()))


def _distinct(items: Sequence[Item]) -> tuple[dict[str, Item], bool]:
    """The first item of each different text, up to `JOIN_BYTES`; and whether any were left out."""
    found: dict[str, Item] = {}
    size = 0
    for item in items:
        folded = fold(item.key)
        if not folded or folded in found:
            continue
        if size >= JOIN_BYTES:
            return found, True
        size += len(folded)
        found[folded] = item
    return found, False


def _chosen(items: Sequence[Item], mask: Mask) -> Iterator[Item]:
    return (items[i] for i in np.flatnonzero(mask).tolist())


def balance(task: AnyTask, rows: Sequence[Item]) -> Iterator[Finding]:
    """Labels by their number of rows; their names are text as well, and are not given."""
    if not isinstance(task, ClassificationTask) or not rows:
        return
    labelled = [_labels(task, item) for item in rows]
    counts = Counter(label for labels in labelled for label in labels)
    if counts:
        most, least = max(counts.values()), min(counts.values())
        what = f"{task.name}: labels, {least:,} to {most:,} rows each"
        yield Finding(what, len(counts), "labels", warn=most > 10 * least or len(counts) < 2)
        rare = sum(count < _FEW for count in counts.values())
        what = f"{task.name}: labels with fewer than {_FEW} rows"
        yield Finding(what, rare, "labels", len(counts), warn=rare > 0)
    if task.label_separator is None:  # of several labels a row may have none
        unlabelled = (item for item in rows if item.label is None or not item.label.strip())
        yield _finding(f"{task.name}: without a label", unlabelled, len(rows), "rows")
    by_text = defaultdict(set)
    for item, labels in zip(rows, labelled, strict=True):
        by_text[fold(item.key)].add(labels)
    torn = (item for item in rows if len(by_text[fold(item.key)]) > 1)
    yield _finding(f"{task.name}: same text, another label", torn, len(rows), "rows")


def _labels(task: ClassificationTask, item: Item) -> frozenset[str]:
    """A row's labels, in no order; none where it has null."""
    return frozenset(() if item.label is None else task.labels_of({task.label: item.label}))


def matches(items: Sequence[Item]) -> Iterator[Finding]:
    """Damage of encodings, and what may be private: how often, and in which lines."""
    for group in (DAMAGE, PRIVATE):
        for what, count in group.items():
            total, places = 0, []
            for item in items:
                if number := count(item.text):
                    total += number
                    places.append(item.origin)
            yield Finding(
                what, total, "found", 0, tuple(dict.fromkeys(places))[:PLACES], bool(total)
            )


def scripts(domain: Sequence[Item], found: list[Finding]) -> tuple[tuple[str, float], ...]:
    """Share of letters by script; texts mostly in another than the corpus go to the findings."""
    each = [scripts_of(item.key) for item in domain]
    total: Counter[str] = Counter()
    for one in each:
        total.update(one)
    if not total:
        return ()
    main = total.most_common(1)[0][0]
    others = (
        item
        for item, one in zip(domain, each, strict=True)
        if (script := main_script(one)) is not None and script != main
    )
    found.append(_finding(f"mostly in another script than {main}", others, len(domain)))
    letters = total.total()
    return tuple((script, count / letters) for script, count in total.most_common())


# -- lengths ----------------------------------------------------------------------------------


def counter_of(tokenizer: Tokenizer) -> CountTokens:
    """Counts tokens by a tokenizer that neither pads nor truncates, special ones left out."""

    def count(texts: Sequence[str]) -> list[int]:
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    return count


_CUT = {
    "clm": "go on in the next sequence",
    "mlm": "go on in the next sequence",
    "sft": "lose their beginning or end",
    "classification": "lose their end",
}


def too_long(
    phase: Phase,
    domain: Sequence[Item],
    tasks: Sequence[AnyTask],
    rows: dict[str, list[Item]],
    count_tokens: CountTokens,
) -> Iterator[Finding]:
    """Texts longer than a phase's sequences, in the base's tokens and without a chat template."""
    wanted = [t for t in tasks if phase.tasks is None or t.name in phase.tasks]
    if phase.objective in ("clm", "mlm"):
        texts = [(item.key, item) for item in domain]
    elif phase.objective == "classification":
        named = [t for t in wanted if isinstance(t, ClassificationTask)]
        texts = [(item.key, item) for t in named for item in rows[t.name]]
    else:
        texts = [(_asked(t, item), item) for t in wanted for item in rows[t.name]]
    if not texts:
        return
    step = -(-sum(len(text) for text, _ in texts) // TOKEN_BYTES) or 1
    looked = texts[::step]
    # No tokenizer takes half a surrogate pair; the run drops such texts.
    lengths = count_tokens([text.encode("utf-8", "replace").decode() for text, _ in looked])
    long = (
        item
        for (_, i), n in zip(looked, lengths, strict=True)
        for item in [i]
        if n > phase.max_length
    )
    what = f"phase {phase.name}: over {phase.max_length:,} tokens, {_CUT[phase.objective]}"
    found = _finding(what, long, len(looked))
    yield replace(found, warn=found.warn and phase.objective in ("sft", "classification"))


def _asked(task: AnyTask, item: Item) -> str:
    """A prompt with its answer, about as an sft phase sees it."""
    row = defaultdict(str, {k: str(v) for k, v in (item.row or {}).items()})
    if isinstance(task, ClassificationTask):
        row["text"] = item.key
        return f"{task.prompt.format_map(row)} {item.label or ''}"
    return f"{task.prompt.format_map(row)} {item.key}"
