"""The stage: one split over corpus and tasks, everything counted, nothing half-done on disk."""

import errno
import json
import random
import traceback
from itertools import product
from pathlib import Path

import pytest

from adapt.corpus import SPLITS, build_corpus, open_corpus
from adapt.corpus.clean import fold
from adapt.corpus.similarity import words_of
from adapt.errors import AdaptError, DataError, WorkspaceError
from adapt.recipe.evaluation import ClassificationTask, GenerationTask
from adapt.recipe.sources import CorpusSection

ORGANS = ["eye", "ear", "liver", "kidney", "heart", "lung", "skin", "bone", "brain", "nose"]


def definitions(count: int = 60) -> list[str]:
    """Definitions in pairs: each unlike the others, but for a twin that shares its template."""
    return [
        f"Finding {i // 2} shows {chr(97 + i // 2 % 26) * 3}{i // 2} tissue with a change of "
        f"degree {i // 2 * 31} in the {'left' if i % 2 else 'right'} part"
        for i in range(count)
    ]


LABEL = ClassificationTask(
    name="label", kind="classification", path="label.jsonl", text="definition", label="organ"
)
DEFINE = GenerationTask(
    name="define",
    kind="generation",
    path="define.jsonl",
    prompt="Define: {term}",
    target="definition",
)


def section(*paths: str, **options) -> CorpusSection:
    options.setdefault("test_fraction", 0.3)
    options.setdefault("validation_fraction", 0.1)
    return CorpusSection.model_validate({"sources": [{"path": path} for path in paths], **options})


@pytest.fixture
def glossary(write_rows):
    """A corpus and two tasks over the same definitions."""
    texts = definitions()
    rows = [
        {"term": f"term {i}", "definition": text.upper(), "organ": ORGANS[i % 10]}
        for i, text in enumerate(texts)
    ]
    write_rows("corpus.jsonl", [{"text": text} for text in texts])
    write_rows("label.jsonl", rows)
    write_rows("define.jsonl", [*rows[:40], *({**row, "term": "again"} for row in rows[:5])])


def trigrams(text: str) -> set:
    words = words_of(fold(text))
    return set(zip(words, words[1:], words[2:], strict=False))


def texts_by_split(corpus) -> dict[str, list[str]]:
    return {
        split: [
            *corpus.documents(split),
            *(
                row["definition"]
                for task in corpus.statistics.tasks
                for row in corpus.rows(task, split)
            ),
        ]
        for split in SPLITS
    }


@pytest.fixture
def small_pieces(monkeypatch):
    """As for text larger than memory: little is held at a time, the rest lies in files."""
    for name in ("similarity._PART", "similarity._EVENTS", "similarity._VERIFIED_SHINGLES"):
        monkeypatch.setattr(f"adapt.corpus.{name}", 50)
    monkeypatch.setattr("adapt.corpus.shingles._PIECE", 200)


def files_of(folder: str) -> dict[Path, bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("near_duplicate", [None, 0.6])
def test_no_text_of_any_file_leaks(glossary, seed, near_duplicate):
    corpus = build_corpus(
        section("corpus.jsonl", near_duplicate=near_duplicate), [LABEL, DEFINE], seed, Path("out")
    )
    sides = texts_by_split(corpus)
    assert all(sides.values())
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        for left, right in product(sides[one], sides[other]):
            a, b = trigrams(left), trigrams(right)
            assert len(a & b) / len(a | b) < 0.5


def test_splits_partition(glossary):
    corpus = build_corpus(section("corpus.jsonl", near_duplicate=None), [LABEL], 0, Path("out"))
    kept = [text for split in SPLITS for text in corpus.documents(split)]
    assert sorted(kept) == sorted(definitions())
    rows = [row for split in SPLITS for row in corpus.rows("label", split)]
    written = [json.loads(line) for line in Path("label.jsonl").read_text().splitlines()]
    assert sorted(rows, key=str) == sorted(written, key=str)


def test_train_keeps_the_order_of_the_source(glossary):
    corpus = build_corpus(section("corpus.jsonl", near_duplicate=None), [], 0, Path("out"))
    train = list(corpus.documents("train"))
    assert train == [text for text in definitions() if text in train]


def test_order_of_input_does_not_move_a_text(glossary, write_rows):
    texts = definitions()
    options = {"near_duplicate": None}
    first = build_corpus(section("corpus.jsonl", **options), [LABEL], 3, Path("one"))
    random.Random(0).shuffle(texts)
    write_rows("a.jsonl", [{"text": text} for text in texts[:20]])
    write_rows("b.jsonl", [{"text": text} for text in texts[20:]])
    second = build_corpus(section("b.jsonl", "a.jsonl", **options), [LABEL], 3, Path("two"))
    for split in SPLITS:
        assert set(first.documents(split)) == set(second.documents(split))
        assert first.statistics.tasks == second.statistics.tasks


def test_same_seed_same_bytes_other_seed_other_split(glossary):
    def files(seed, folder):
        build_corpus(section("corpus.jsonl"), [LABEL, DEFINE], seed, Path(folder))
        return files_of(folder)

    assert files(0, "one") == files(0, "two")
    assert files(0, "one") != files(1, "three")


def test_text_larger_than_memory_gives_the_same_bytes(glossary, write_rows, request):
    general = [{"text": text} for text in [definitions()[1] + "!", *(f"news {i}" for i in "abcde")]]
    write_rows("news.jsonl", general)
    some = section("corpus.jsonl", near_duplicate=0.6, general=[{"path": "news.jsonl"}])
    build_corpus(some, [LABEL, DEFINE], 0, Path("one"))
    request.getfixturevalue("small_pieces")
    build_corpus(some, [LABEL, DEFINE], 0, Path("two"))
    assert files_of("one") == files_of("two")
    assert set(files_of("one")) == {
        Path("statistics.json"),
        *(Path(f"{name}.jsonl") for name in (*SPLITS, "general", "general_sample")),
        *(Path(f"tasks/{task}/{split}.jsonl") for task in ("label", "define") for split in SPLITS),
    }


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [(errno.ENOSPC, WorkspaceError, "out: the disk is full"), (errno.EIO, OSError, "broken")],
)
@pytest.mark.parametrize("call", ["add", "deal"])
def test_a_crash_leaves_nothing(glossary, monkeypatch, call, number, error, message):
    before = set(Path().iterdir())

    def fail(*arguments):
        raise OSError(number, "broken")

    monkeypatch.setattr(f"adapt.corpus.spool.Spool.{call}", fail)
    with pytest.raises(error, match=message):
        build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("letters", "limit", "step"),
    [(20, 20_000, "add"), (1, 20_000, "shingle_sets"), (1, 32_000, "_parts")],
)
def test_wherever_the_room_ends_nothing_is_left(write_rows, small_pieces, letters, limit, step):
    """No file may grow past the limit, which is met while reading, ordering or comparing."""
    resource = pytest.importorskip("resource", reason="only Unix limits how large a file may grow")
    draw = random.Random(0)
    words = [letter * letters for letter in "abcdefghijklmnopqrstuvwxyz"]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(60)]
    some = section(write_rows("corpus.jsonl", [{"text": t} for t in texts]), leak_threshold=0.1)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(WorkspaceError, match="out: a file of that size is not allowed") as got:
            build_corpus(some, [], 0, Path("out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    steps, error = set(), got.value.__context__
    while error is not None:
        steps |= {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        error = error.__context__
    assert step in steps
    assert [path.name for path in Path().iterdir()] == ["corpus.jsonl"]
    build_corpus(some, [], 0, Path("out"))


def test_no_file_stays_open(glossary):
    files = Path("/dev/fd")
    before = len(list(files.iterdir()))
    build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))
    with pytest.raises(DataError):
        build_corpus(section("corpus.jsonl", test_fraction=1e-9), [LABEL], 0, Path("out"))
    assert len(list(files.iterdir())) == before


def test_every_drop_is_counted(glossary, write_rows):
    texts = definitions()
    write_rows("more.jsonl", [{"text": t} for t in ["", " ", None, "tiny", texts[0].lower()]])
    write_rows(
        "label.jsonl",
        [
            *({"definition": text, "organ": "eye"} for text in texts),
            {"definition": texts[0], "organ": " "},
            {"definition": None, "organ": "ear"},
        ],
    )
    write_rows("news.jsonl", [{"text": t} for t in ["", texts[1] + "!", "The minister met voters"]])
    corpus = build_corpus(
        section(
            "corpus.jsonl",
            "more.jsonl",
            min_characters=5,
            near_duplicate=0.6,
            general=[{"path": "news.jsonl"}],
        ),
        [LABEL],
        0,
        Path("out"),
    )
    found = corpus.statistics
    assert found.dropped == {
        "empty": 3,
        "exact duplicate": 1,
        "general: empty": 1,
        "general: similar to domain text": 1,
        "label: definition empty": 1,
        "label: organ empty": 1,
        "near duplicate": 30,
        "shorter than min_characters": 1,
    }
    assert found.read == {"domain": 65, "general": 3, "label": 62}
    kept = sum(found.splits[split].documents for split in SPLITS)
    assert kept + 3 + 1 + 30 + 1 == found.read["domain"]
    assert list(corpus.general()) == ["The minister met voters"]
    assert sum(found.tasks["label"].values()) == 60


def test_statistics_are_those_of_the_files(glossary):
    corpus = build_corpus(section("corpus.jsonl"), [LABEL, DEFINE], 0, Path("out"))
    for split in SPLITS:
        texts = list(corpus.documents(split))
        measured = corpus.statistics.splits[split]
        assert measured.documents == len(texts)
        assert measured.bytes_ == sum(len(text.encode()) for text in texts)
        assert measured.words == sum(len(text.split()) for text in texts)
        for task in ("label", "define"):
            rows = corpus.statistics.tasks[task][split]
            assert rows == len(list(corpus.rows(task, split)))
    assert list(corpus.general()) == []


def test_open_corpus_gives_what_was_built(glossary):
    built = build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))
    assert open_corpus(Path("out")) == built
    with pytest.raises(DataError, match="holds no finished corpus"):
        open_corpus(Path("elsewhere"))


def test_origin_is_path_and_line(glossary):
    build_corpus(section("corpus.jsonl", near_duplicate=None), [], 0, Path("out"))
    texts = definitions()
    for split in SPLITS:
        for line in Path(f"out/{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row["origin"] == f"corpus.jsonl:{texts.index(row['text']) + 1}"


def test_max_documents(glossary):
    some = CorpusSection.model_validate(
        {"sources": [{"path": "corpus.jsonl", "max_documents": 30}], "test_fraction": 0.4}
    )
    corpus = build_corpus(some, [], 0, Path("out"))
    assert corpus.statistics.read["domain"] == 30


def test_values_that_json_lacks_become_text(glossary, tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    texts = definitions()
    columns = {
        "definition": texts,
        "organ": ["eye"] * len(texts),
        "seen": [datetime.date(2026, 1, 2)] * len(texts),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), "label.parquet")
    task = LABEL.model_copy(update={"path": "label.parquet"})
    corpus = build_corpus(section("corpus.jsonl"), [task], 0, Path("out"))
    assert next(corpus.rows("label", "train"))["seen"] == "2026-01-02"


def test_provenance_is_collected_once_a_folder(glossary, write_rows):
    entries = [{"name": "Glossary", "version": "2026-01", "licence": "CC0-1.0"}]
    Path("SOURCES.json").write_text(json.dumps(entries))
    corpus = build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))
    assert corpus.statistics.provenance == entries
    Path("SOURCES.json").write_text('{"name": "Glossary"}')
    with pytest.raises(DataError, match=r"SOURCES\.json: is not a list of sources"):
        build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["", " "], {}, "no document is left after cleaning"),
        (["abc"] * 5, {"min_characters": 4}, "no document is left after cleaning"),
        (["a", "b", "!", "c"], {}, "no document is longer than one character"),
        (["one single document only"], {}, "leaves the (test|train) split empty"),
        (definitions(), {"test_fraction": 1e-9}, "leaves the test split empty; give more text"),
        (definitions(), {"test_fraction": 0.89999}, None),
    ],
)
def test_too_little_text(write_rows, texts, options, message):
    write_rows("corpus.jsonl", [{"text": text} for text in texts])
    if message is None:
        options = {**options, "test_fraction": 0.999, "validation_fraction": 0.0}
        message = "leaves the train split empty"
    with pytest.raises(DataError, match=message):
        build_corpus(section("corpus.jsonl", **options), [], 0, Path("out"))
    assert [path.name for path in Path().iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "label.jsonl: holds no rows"),
        ([{"definition": "a b c", "organ": 3}], "column organ holds int, not text"),
        ([{"definition": "a b c"}], "label.jsonl:1: has no column organ"),
        ([{"definition": "a b c", "organ": "eye"}], "task label has no rows in the"),
    ],
)
def test_bad_task(glossary, write_rows, rows, message):
    write_rows("label.jsonl", rows)
    with pytest.raises(DataError, match=message):
        build_corpus(section("corpus.jsonl"), [LABEL], 0, Path("out"))
    assert not Path("out").exists()


def test_a_row_without_a_prompt_column(glossary, write_rows):
    rows = [{"term": f"t{i}", "definition": text} for i, text in enumerate(definitions())]
    rows[3]["term"] = None
    write_rows("define.jsonl", rows)
    corpus = build_corpus(section("corpus.jsonl"), [DEFINE], 0, Path("out"))
    assert corpus.statistics.dropped["define: term empty"] == 1
    del rows[7]["term"]
    write_rows("define.jsonl", rows)
    with pytest.raises(AdaptError, match=r"define\.jsonl:8: has no column term"):
        build_corpus(section("corpus.jsonl"), [DEFINE], 0, Path("out"))
