"""Rows of new tokens from another model that has them: `embeddings.init: omp`.

Goddard and Fernandes Neto 2025, "Training-Free Tokenizer Transplantation via Orthogonal Matching
Pursuit", arXiv 2506.06607: what makes up a token's row of tokens that both models have, in the
donor's matrix, makes up its row in the base's. No weight but those rows is read, of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapt import bases
from adapt.embeddings.convert import with_safetensors
from adapt.embeddings.initialize import Combinations, pursue
from adapt.embeddings.locate import Embeddings, find, parameters
from adapt.embeddings.result import Transplanted
from adapt.embeddings.shards import Stored, put_rows, read_header, read_rows, shard_files
from adapt.errors import AdaptError, ModelError
from adapt.vocab import Vocabulary, load_tokenizer
from adapt.vocab.correspondence import respelled
from adapt.vocab.extend import FAMILIES
from adapt.vocab.spec import Spec, family, spec_of, vocabulary

WHERE = "embeddings.donor"


@dataclass(frozen=True)
class Matched:
    """Tokens of a donor, found by their text.

    Attributes:
        base: (shared,) base ids of tokens that base and donor have.
        donor: (shared,) the donor's ids of the same.
        new: (known,) places in `VocabDelta.added` of new tokens that the donor has.
        known: (known,) the donor's ids of those.
    """

    base: list[int]
    donor: list[int]
    new: list[int]
    known: list[int]


def find_donor(given: str) -> bases.Base:
    """The donor, on disk, made out of a package or fetched when it is not there.

    Args:
        given: `embeddings.donor` of the recipe: Hub id, folder or `package:<name>`.

    Raises:
        ModelError: It cannot be had.
    """
    with _said_of_donor(given):
        return bases.resolve(given)


def check_donor(given: str, *, trust_remote_code: bool = False) -> None:
    """Raises what is wrong with a donor as far as can be known without work; writes nothing.

    Raises:
        ModelError: It cannot be had, or, where it is on disk, its tokens cannot be compared.
    """
    with _said_of_donor(given):
        bases.check(given)
        folder = bases.on_disk(given)
    if folder:
        _spec(folder, given, trust_remote_code=trust_remote_code)


@contextmanager
def _said_of_donor(given: str) -> Iterator[None]:
    """What a base can lack, said of the donor's place in the recipe."""
    try:
        yield
    except AdaptError as problem:
        raise ModelError(problem.what, where=WHERE, got=given, fix=problem.fix) from None


def _spec(folder: Path, given: str, *, trust_remote_code: bool) -> Spec:
    """The donor's tokenizer."""
    with _said_of_donor(given):
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    spec = spec_of(tokenizer.backend_tokenizer)
    if family(spec) not in FAMILIES:
        raise ModelError(
            f"its tokens are {family(spec)}, which cannot be compared with others",
            where=WHERE,
            got=given,
            fix=f"take a donor with {', '.join(FAMILIES)}",
        )
    return spec


def match(base: Spec, adapted: Spec, donor: Spec, added: Sequence[str], rows: int) -> Matched:
    """Finds the donor's tokens by the text that they stand for, however it is spelled.

    Args:
        base: The base's `tokenizer.json`.
        adapted: The new one's.
        donor: The donor's.
        added: New tokens, as the new one spells them.
        rows: Rows of the donor's matrix; ids beyond have none.
    """
    own = vocabulary(base)
    as_base, as_new = (
        {token: id_ for token, id_ in respelled(donor, other).items() if id_ < rows}
        for other in (base, adapted)
    )
    shared = [(own[token], id_) for token, id_ in as_base.items() if token in own]
    known = [(place, as_new[token]) for place, token in enumerate(added) if token in as_new]
    return Matched(
        [mine for mine, _ in shared],
        [theirs for _, theirs in shared],
        [place for place, _ in known],
        [theirs for _, theirs in known],
    )


def transplant(
    roles: Mapping[str, Sequence[Stored]],
    base: Path,
    vocabulary: Vocabulary,
    donor: Path,
    *,
    given: str,
    atoms: int,
    trust_remote_code: bool = False,
) -> Transplanted:
    """Writes rows of the new tokens that the donor has; the others stay as they are.

    Input rows follow the donor's input matrix, output rows its output matrix, which is the
    input's where the donor ties them.

    Args:
        roles: Tensors to write into, by role (input, output), all with rows for new tokens.
        base: The base's folder, in safetensors, with its tokenizer.
        vocabulary: The adapted tokenizer and what changed.
        donor: The donor's folder.
        given: The donor as the recipe names it.
        atoms: Shared tokens that make up a new one, at most.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: The donor has no rows, or no token in common with the base.
    """
    theirs = _spec(donor, given, trust_remote_code=trust_remote_code)
    mine, new = (
        spec_of(load_tokenizer(f, trust_remote_code=trust_remote_code).backend_tokenizer)
        for f in (base, vocabulary.folder)
    )
    with _said_of_donor(given):
        folder = with_safetensors(donor, trust_remote_code=trust_remote_code)
        source = _embeddings(folder, trust_remote_code=trust_remote_code)
    added = vocabulary.delta.added
    matched = match(mine, new, theirs, [token.token for token in added], source.rows)
    if not matched.base:
        raise ModelError("has no token in common with the base", where=WHERE, got=given)
    ids = [added[place].id for place in matched.new]
    target = _embeddings(base, trust_remote_code=trust_remote_code)
    combined: dict[Stored, Combinations] = {}
    for role, tensors in roles.items():
        where = _of(source, role)
        if where not in combined:
            shared, wanted = (read_rows(where, ids_) for ids_ in (matched.donor, matched.known))
            combined[where] = pursue(shared, wanted, atoms=atoms)
        made = combined[where].of(read_rows(_of(target, role), matched.base))
        for stored in tensors:
            put_rows(stored, ids, made)
    left, has = combined[_of(source, "input")].left, frozenset(matched.new)
    return Transplanted(
        donor=given,
        atoms=atoms,
        shared=len(matched.base),
        rebuilt=len(ids),
        left=float(left.median()) if len(left) else 0.0,
        missing=tuple(token.id for i, token in enumerate(added) if i not in has),
    )


def _embeddings(folder: Path, *, trust_remote_code: bool) -> Embeddings:
    tensors = {k: t for n in shard_files(folder) for k, t in read_header(folder / n)[0].items()}
    wanted = parameters(folder, trust_remote_code=trust_remote_code)
    return find(wanted, tensors, str(folder))


def _of(found: Embeddings, role: str) -> Stored:
    """A role's tensor; the input's for an output that is tied."""
    held = {"input": found.inputs, "output": found.outputs}[role]
    return next(iter((held or found.inputs).values()))
