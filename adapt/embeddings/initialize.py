"""Rows for new tokens, made from rows of the base: strategies by name.

All work on one matrix at a time, in float32, and give rows in the matrix's type. None loops over
tokens, and none copies the matrix, which may be mapped from a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapt.progress import watched

_CHUNK = 4_096  # rows in float32 at a time: 64 MB where a row has 4,096 columns
_PURSUED = 64  # rows that `pursue` looks for at a time

Constituents = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Context:
    """What some strategies need besides rows.

    Attributes:
        seed: Of strategies that draw.
        initializer_range: Standard deviation of the model's own initialisation.
        output: Whether rows are of an output layer of its own; a tied row counts as input.
    """

    seed: int = 0
    initializer_range: float = 0.02
    output: bool = False


Strategy = Callable[[Tensor, Constituents, Context], Tensor]

PLAIN = Context()  # frozen, so that all may share it


def mean(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """The mean of the constituents' rows: e = (1/n) sum_i e_i.

    Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression", equation 2.

    Args:
        rows: (base tokens, columns), any floating type.
        constituents: For each new token the base ids it is made of, one or more, each below
            `base tokens`.
        context: Not used.

    Returns:
        (new tokens, columns) in the type of `rows`.
    """
    pieces = _Pieces.of(constituents)
    return pieces.average(rows, torch.ones(len(pieces.ids)))


def weighted(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """Exponential weights: e = sum_i w_i e_i with w_i = exp(±2i) / sum_j exp(±2j), i from 1 to n.

    Plus for input rows, where the last constituent is what the next token follows; minus for
    output rows, where the first is what must be predicted. Tied rows take the input's.
    Nakash et al. 2025, "AdaptiVocab", arXiv 2503.19693, section 3.3.

    Args:
        rows: (base tokens, columns), any floating type.
        constituents: For each new token the base ids it is made of.
        context: Its `output` decides the sign.

    Returns:
        (new tokens, columns) in the type of `rows`.
    """
    pieces = _Pieces.of(constituents)
    from_end = pieces.lengths[pieces.owner] - 1 - pieces.place
    # Counted from the heavy end the largest is 1, so that no exponential overflows.
    return pieces.average(rows, torch.exp(-2.0 * (pieces.place if context.output else from_end)))


def first(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """The row of the first constituent, bit for bit: e = e_1.

    For output rows: the model predicts a unit where it predicted the unit's first piece.

    Args:
        rows: (base tokens, columns).
        constituents: For each new token the base ids it is made of.
        context: Not used.
    """
    return rows[torch.tensor([ids[0] for ids in constituents])]


def last(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """The row of the last constituent, bit for bit: e = e_n.

    For input rows: what follows a unit is what followed its last piece.

    Args:
        rows: (base tokens, columns).
        constituents: For each new token the base ids it is made of.
        context: Not used.
    """
    return rows[torch.tensor([ids[-1] for ids in constituents])]


def random(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """A draw as in the model's own initialisation: e ~ N(0, initializer_range² I).

    What a model gets that is resized and not initialised; a control.

    Args:
        rows: (base tokens, columns); gives shape and type only.
        constituents: One entry for each new token.
        context: Its `seed` and `initializer_range`.
    """
    draw = torch.Generator().manual_seed(context.seed)
    noise = torch.randn(len(constituents), rows.shape[1], generator=draw)
    return (noise * context.initializer_range).to(rows.dtype)


def global_(rows: Tensor, constituents: Constituents, context: Context = PLAIN) -> Tensor:
    """A draw near the mean of all rows: e ~ N(m, 1e-5 S), m and S mean and covariance of the rows.

    As output, a row at the mean has at every position a logit not above the log of the mean of
    all exponentiated logits (Jensen), so it takes no more than its share from the others.
    Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models", whose code has
    the factor 1e-5.

    The draw needs no factor of S: with z ~ N(0, I) over the V rows,
    m + sqrt(1e-5 / V) sum_j z_j (e_j - m) has that distribution.

    Args:
        rows: (base tokens, columns).
        constituents: One entry for each new token.
        context: Its `seed`.
    """
    draw = torch.Generator().manual_seed(context.seed)
    centre = mean_row(rows)
    noise = torch.zeros(len(constituents), rows.shape[1])
    for chunk in _chunks(rows):
        z = torch.randn(len(constituents), len(chunk), generator=draw)
        noise.addmm_(z, chunk - centre)
    return (centre + math.sqrt(1e-5 / rows.shape[0]) * noise).to(rows.dtype)


def mean_row(rows: Tensor) -> Tensor:
    """The mean over all rows, (columns,) in float32."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for chunk in _chunks(rows):
        total += chunk.sum(0, dtype=torch.float64)
    return (total / max(rows.shape[0], 1)).float()


@dataclass(frozen=True)
class Combinations:
    """Sparse combinations of the rows of one matrix, to be taken of another's.

    Attributes:
        taken: (new tokens, atoms) which rows.
        weights: (new tokens, atoms) how much of each; float32.
        left: (new tokens,) length of what they leave of each wanted row, by its own length.
    """

    taken: Tensor
    weights: Tensor
    left: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """The same combinations of other rows, (new tokens, columns) in their type."""
        made = torch.zeros(len(self.taken), rows.shape[1])
        for taken, weights in zip(self.taken.T, self.weights.T, strict=True):
            made += rows[taken].float() * weights[:, None]
        return made.to(rows.dtype)


def pursue(shared: Tensor, wanted: Tensor, *, atoms: int = 8) -> Combinations:
    """Orthogonal matching pursuit: rows as sparse combinations of others.

    For each wanted row d start from the residual r = d; `atoms` times take the shared row with
    the largest |cosine| to r, and let r be what least squares over all taken rows leaves of d.
    Least squares are solved in float64, as normal equations square the condition.
    The paper takes 64 of donors a few thousand columns wide; more atoms fit the donor's row better
    and say less of the base's, the sooner the narrower the donor (docs/decisions.md).
    Pati, Rezaiifar and Krishnaprasad 1993, "Orthogonal matching pursuit"; for tokens: Goddard and
    Fernandes Neto 2025, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit",
    arXiv 2506.06607.

    Args:
        shared: (shared tokens, columns), any floating type; one copy in float32 is made.
        wanted: (new tokens, columns), any floating type.
        atoms: Rows that each combination has, at most; no more than there are rows or columns.
    """
    dictionary = shared.float()
    lengths = dictionary.norm(dim=1)
    # A row of zeros makes up nothing.
    scale = torch.where(lengths > 0, 1 / lengths, 0.0)
    atoms = min(atoms, *dictionary.shape)
    parts = [
        _pursue(dictionary, scale, target.float(), atoms)
        for target in watched(torch.split(wanted, _PURSUED), "Combining donor's rows")
        if len(target)
    ]
    if not parts:
        none = torch.zeros(0, atoms)
        return Combinations(none.long(), none, none.sum(1))
    return Combinations(*map(torch.cat, zip(*parts, strict=True)))


def _pursue(
    dictionary: Tensor, scale: Tensor, target: Tensor, atoms: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`pursue` for some rows, (tokens, columns)."""
    residual, taken = target, torch.empty(len(target), 0, dtype=torch.long)
    used = torch.zeros(len(target), len(dictionary), dtype=torch.bool)
    weights = torch.zeros(len(target), 0)
    for _ in range(atoms):
        fit = (residual @ dictionary.T).mul_(scale).abs_().masked_fill_(used, -1.0)
        best = fit.argmax(1, keepdim=True)
        used.scatter_(1, best, True)
        taken = torch.cat([taken, best], 1)
        basis = dictionary[taken].double()  # (tokens, taken, columns)
        gram = basis @ basis.transpose(1, 2)
        # A trace of ridge, since rows that the pursuit takes may depend on one another.
        ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-30)
        right = basis @ target.double()[..., None]
        fitted = torch.linalg.solve(gram + ridge * torch.eye(gram.shape[1]), right)
        weights = fitted[..., 0].float()
        residual = target - torch.einsum("tk,tkd->td", weights, dictionary[taken])
    left = residual.norm(dim=1) / target.norm(dim=1).clamp_min(1e-30)
    return taken, weights, left


@dataclass(frozen=True)
class _Pieces:
    """All constituents in one row.

    Attributes:
        ids: (pieces,) base ids.
        owner: (pieces,) the new token, counted from 0, that each belongs to.
        place: (pieces,) its place in that token, from 0.
        lengths: (new tokens,) constituents of each.
    """

    ids: Tensor
    owner: Tensor
    place: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, constituents: Constituents) -> _Pieces:
        lengths = torch.tensor([len(ids) for ids in constituents], dtype=torch.long)
        ids = torch.tensor([id_ for ids in constituents for id_ in ids], dtype=torch.long)
        owner = torch.repeat_interleave(torch.arange(len(constituents)), lengths)
        starts = torch.cumsum(lengths, 0) - lengths
        return cls(ids, owner, torch.arange(len(ids)) - starts[owner], lengths)

    def average(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean of each new token's rows, (new tokens, columns)."""
        sums = torch.zeros(len(self.lengths), rows.shape[1])
        totals = torch.zeros(len(self.lengths)).index_add_(0, self.owner, weights)
        parts = (torch.split(part, _CHUNK) for part in (self.ids, self.owner, weights))
        for ids, owner, weight in zip(*parts, strict=True):
            sums.index_add_(0, owner, rows[ids].float() * weight[:, None])
        return (sums / totals[:, None]).to(rows.dtype)


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    for chunk in torch.split(rows, _CHUNK):
        yield chunk.float()


# Names that `embeddings.init` and `embeddings.init_output` may take.
STRATEGIES: dict[str, Strategy] = {
    "mean": mean,
    "weighted": weighted,
    "global": global_,
    "random": random,
    "first": first,
    "last": last,
}

# Those that look at every row of the matrix; the others look at constituents' rows alone.
LOOK_AT_ALL = frozenset({"global"})
