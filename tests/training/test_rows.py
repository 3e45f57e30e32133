"""The decision about new rows, line by line and for every setting."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import TrainingError
from adapt.recipe.training import TrainingSection
from adapt.training.rows import BESIDE, TABLE, WHOLE, Setting, decide

METHODS = TrainingSection.model_fields["method"].annotation.__args__

# method, tied, quantised, ZeRO stage, FSDP, share of new rows -> what is done, or None: refused
LINES = [
    (("lora", True, False, 0, False, 0.0), "none"),
    (("lora", True, False, 3, False, 0.0), "none"),
    (("lora", True, False, 0, False, 0.1), "token_indices"),
    (("lora", False, False, 0, False, 0.1), "token_indices"),
    (("lora", True, False, 2, False, 0.1), "token_indices"),
    (("lora", True, False, 0, True, 0.1), None),  # tried: accelerate cuts the matrix twice
    (("lora", False, False, 0, True, 0.1), "token_indices"),
    (("lora", True, False, 3, False, 0.1), None),
    (("lora", False, False, 3, False, 0.1), "modules_to_save"),
    (("lora", True, False, 0, False, 1.0), "modules_to_save"),
    (("lora", False, False, 0, True, 1.0), "modules_to_save"),
    (("qlora", True, True, 0, False, 0.1), "token_indices"),
    (("qlora", False, True, 2, False, 0.1), "token_indices"),
    (("qlora", False, True, 3, False, 0.1), None),
    (("qlora", False, True, 3, False, 0.0), None),
    (("qlora", False, True, 0, True, 0.1), None),
    (("qlora", True, True, 0, False, 1.0), "modules_to_save"),
    (("rows", True, False, 0, False, 0.1), "token_indices"),
    (("rows", True, False, 0, False, 1.0), "token_indices"),
    (("rows", False, False, 3, False, 0.1), None),
    (("ia3", True, False, 0, True, 0.1), None),
    (("ia3", False, False, 3, False, 0.1), None),
    (("prefix", True, False, 2, False, 0.1), "token_indices"),
    (("p_tuning", True, False, 0, False, 1.0), "token_indices"),
    (("prompt", True, False, 3, False, 0.0), "none"),
    (("full", True, False, 3, False, 0.1), "all"),
    (("full", False, False, 0, True, 0.0), "all"),
    (("edges", True, False, 0, False, 0.1), "all"),
]


@pytest.mark.parametrize(("setting", "how"), LINES, ids=str)
def test_line(setting, how):
    if how is None:
        with pytest.raises(TrainingError, match="training.method: .*; take"):
            decide(Setting(*setting))
    else:
        assert decide(Setting(*setting)).how == how


def test_every_rule_decides_some_line():
    """A rule that an earlier one hides would be a promise that nothing keeps."""
    first = {
        next(i for i, rule in enumerate(TABLE) if rule.holds(Setting(*setting)))
        for setting, _ in LINES
    }
    assert first == set(range(len(TABLE)))


def test_every_method_of_the_recipe_has_its_decision():
    for method, tied in itertools.product(METHODS, (True, False)):
        quantised = method == "qlora"
        decision = decide(Setting(method, tied, quantised, 0, False, 0.1))
        assert decision.how == ("all" if method in WHOLE else "token_indices")
        assert str(decision).startswith(f"{decision.how} (")
        assert "\n" not in str(decision)


@given(
    st.builds(
        Setting,
        method=st.sampled_from(METHODS),
        tied=st.booleans(),
        quantised=st.booleans(),
        zero_stage=st.integers(0, 3),
        fsdp=st.booleans(),
        share=st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 0.99)),
    )
)
def test_whole_matrices_only_where_the_method_keeps_them(setting):
    try:
        how = decide(setting).how
    except TrainingError:
        tied_shards = setting.fsdp and setting.tied
        assert setting.zero_stage == 3 or setting.quantised or tied_shards
        return
    assert (how == "all") == (setting.method in WHOLE)
    if how == "none":
        assert setting.share == 0.0
    if how == "modules_to_save":
        assert setting.method not in (*BESIDE, *WHOLE, "rows")
    if setting.share and setting.zero_stage == 3:
        assert how != "token_indices"
