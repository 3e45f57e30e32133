"""General English out of an installed package: the Lee background corpus in gensim's test data."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from adapt.errors import DataError

ARTICLES = "gensim/test/test_data/lee_background.cor"


def build(folder: Path = Path("data/general")) -> list[Path]:
    """Writes news.jsonl (column text) and SOURCES.json; returns the paths written.

    Raises:
        DataError: gensim is not installed, or comes without its test data.
    """
    # The distribution is asked, not the package: importing gensim needs scipy and takes seconds.
    articles = _articles().read_text(encoding="utf-8").splitlines()
    news = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in articles)
    source = {
        "name": "Lee background corpus (headline stories of ABC news mail, Australia)",
        "version": f"gensim {distribution('gensim').version}",
        "package": f"gensim {distribution('gensim').version}",
        "licence": "not stated for the articles; the package that ships them is LGPL-2.1-only",
        "rights": "Australian Broadcasting Corporation",
        "citation": "Lee, Pincombe, Welsh: An empirical evaluation of models of text document "
        "similarity, CogSci 2005",
        "url": "https://github.com/piskvorky/gensim",
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {"news.jsonl": news, "SOURCES.json": json.dumps([source], indent=2) + "\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in files]


def _articles() -> Path:
    try:
        path = Path(str(distribution("gensim").locate_file(ARTICLES)))
    except PackageNotFoundError:
        path = Path(ARTICLES)
    if not path.is_file():
        raise DataError(
            "the general data needs the package gensim",
            fix="pip install --no-deps gensim==4.4.0",
        )
    return path


def main() -> None:
    """Builds into the folder named on the command line, data/general by default."""
    for path in build(*map(Path, sys.argv[1:2])):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
