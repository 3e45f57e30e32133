"""Each strategy against its formula, written out token by token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.embeddings.initialize import STRATEGIES, Context, mean, mean_row, pursue

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 1.0
MADE = [(0, 1, 2), (5,), (3, 3), (9, 8, 7, 6), (39, 0)]


def by_hand(name, rows, made_of, output):
    pieces = rows[list(made_of)].double()
    n = len(made_of)
    if name == "mean":
        return pieces.mean(0)
    if name in ("first", "last"):
        return pieces[0 if name == "first" else -1]
    sign = -1 if output else 1
    weights = torch.tensor([math.exp(sign * 2 * i) for i in range(1, n + 1)]).double()
    return (weights / weights.sum()) @ pieces


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("name", ["mean", "weighted", "first", "last"])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=9), min_size=1, max_size=8))
def test_rows_follow_the_formula(name, output, made):
    new = STRATEGIES[name](ROWS, made, Context(output=output))
    expected = torch.stack([by_hand(name, ROWS, made_of, output) for made_of in made])
    torch.testing.assert_close(new.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_type_and_shape_are_the_matrix_s_own(name, dtype):
    new = STRATEGIES[name](ROWS.to(dtype), MADE, Context())
    assert (new.shape, new.dtype) == ((5, 6), dtype)
    assert new.isfinite().all()


@pytest.mark.parametrize("name", ["mean", "weighted", "first", "last"])
def test_a_single_constituent_is_taken_as_it_is(name):
    rows = ROWS.bfloat16()
    assert torch.equal(STRATEGIES[name](rows, [(7,)], Context())[0], rows[7])


def test_mean_is_taken_in_float32():
    rows = torch.tensor([[1.0], [256.0], [3.0]], dtype=torch.bfloat16)
    assert mean(rows, [(0, 1, 2), (2, 2)]).float().tolist() == [
        [pytest.approx(86.667, abs=0.4)],
        [3.0],
    ]


def test_long_units_do_not_overflow():
    made = [tuple(range(40)) * 5]
    for output, heavy in ((False, ROWS[39]), (True, ROWS[0])):
        new = STRATEGIES["weighted"](ROWS, made, Context(output=output))[0]
        assert (new - heavy).norm() < 0.3 * heavy.norm()


def test_chunks_do_not_show(monkeypatch):
    whole = {name: STRATEGIES[name](ROWS, MADE, Context()) for name in ("mean", "weighted")}
    monkeypatch.setattr("adapt.embeddings.initialize._CHUNK", 2)
    for name, rows in whole.items():
        torch.testing.assert_close(STRATEGIES[name](ROWS, MADE, Context()), rows)
    torch.testing.assert_close(mean_row(ROWS), ROWS.mean(0))


@pytest.mark.parametrize("name", ["global", "random"])
def test_draws_depend_on_the_seed_alone(name):
    one, same, other = (STRATEGIES[name](ROWS, MADE, Context(seed=s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_random_has_the_model_s_own_spread():
    new = STRATEGIES["random"](ROWS, [(0,)] * 5_000, Context(initializer_range=0.3))
    assert new.mean().abs() < 0.01
    assert new.std() == pytest.approx(0.3, rel=0.02)


def test_global_has_mean_and_covariance_of_the_rows():
    new = STRATEGIES["global"](ROWS.double(), [(0,)] * 20_000, Context())
    centre = ROWS.double().mean(0)
    away = (new - centre) / math.sqrt(1e-5)
    expected = (ROWS - centre).T.double() @ (ROWS - centre).double() / len(ROWS)
    torch.testing.assert_close(away.T @ away / len(away), expected, rtol=0, atol=0.05)
    assert (away.mean(0).abs() < 0.05).all()


# -- omp ---------------------------------------------------------------------------------------


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_omp_finds_a_sparse_combination_again():
    donor, base = draw(50, 30, seed=1), draw(50, 12, seed=2)
    coefficients = torch.zeros(300, 50)
    coefficients[torch.arange(300)[:, None], draw(300, 50, seed=3).topk(2).indices] = 2.0
    new = pursue(donor, coefficients @ donor, atoms=6).of(base)
    close = ((new - coefficients @ base).norm(dim=1) < 1e-2).float().mean()
    assert close > 0.95


def test_omp_gives_a_shared_token_its_own_row():
    donor, base = draw(50, 30, seed=1), draw(50, 12, seed=2)
    torch.testing.assert_close(pursue(donor, donor[[4, 7]], atoms=3).of(base), base[[4, 7]])


def test_omp_in_the_same_space_comes_nearer_with_every_atom():
    donor, new = draw(50, 12, seed=1), draw(9, 12, seed=4)
    left = [(pursue(donor, new, atoms=k).of(donor) - new).norm(dim=1) for k in (1, 3, 6, 12)]
    assert all((b <= a + 1e-4).all() for a, b in zip(left, left[1:], strict=False))
    assert left[-1].max() < 1e-2
    assert pursue(donor, new[:0]).of(donor).shape == (0, 12)
