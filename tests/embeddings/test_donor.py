"""Rows after a donor's: the same combination of the base's rows, wherever the donor has one."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

import adapt
from adapt.check import check
from adapt.embeddings.build import make_adapted_base
from adapt.embeddings.donor import check_donor, match
from adapt.embeddings.result import AdaptedBase
from adapt.errors import AdaptError, ModelError
from adapt.pipeline import Pipeline
from adapt.preparation import Preparation
from adapt.recipe import load_recipe
from adapt.recipe.vocabulary import EmbeddingsSection
from adapt.vocab.delta import VocabDelta
from adapt.vocab.spec import spec_of, text_of, vocabulary
from adapt.vocab.spelling import BYTE_CHARACTERS, BYTE_TOKENS
from adapt.workspace import digest

SIZES = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
END = "<|endoftext|>"

# Texts of tokens. All share the words; the new vocabulary has three that the base lacks, the
# donor knows two of them.
SHARED = [" heart", " valve", " kidney", "itis", " of", " the", " wall", " fluid"]
ALIEN = ["lorem", " ipsum"]
NEW = [" nephritis", " pericardium", " mitral valve"]
KNOWN = [" nephritis", " mitral valve"]
# What the donor's rows of the known ones are made of, and so the base's are to be.
RECIPE = {
    " nephritis": {" kidney": 1.5, "itis": 1.0},
    " mitral valve": {" valve": 1.0, " heart": 0.5, " wall": -0.25},
}


def byte_level(texts):
    """A byte-level vocabulary with the texts, spelled as GPT-2 spells them."""
    spelled = ["".join(BYTE_CHARACTERS[b] for b in text.encode()) for text in texts]
    vocab = {token: i for i, token in enumerate([END, *BYTE_CHARACTERS, *spelled])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def sentencepiece(texts):
    """The same as SentencePiece spells them, ids the other way round."""
    spelled = [text.replace(" ", "\u2581") for text in texts]
    tokens = [*reversed(spelled), *BYTE_TOKENS, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def ids_of(tokenizer):
    """Text to id, of either spelling."""
    text = text_of(spec_of(tokenizer.backend_tokenizer))
    return {text(token): id_ for token, id_ in tokenizer.get_vocab().items()}


def llama(rows, hidden=16, tied=True):
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=rows, hidden_size=hidden, tie_word_embeddings=tied, **SIZES)
    )


def phi(rows):
    model = PhiForCausalLM(PhiConfig(vocab_size=rows, hidden_size=16, **SIZES))
    model.lm_head.bias.data.normal_()
    return model


BASES = {
    "tied": llama,
    "untied": lambda rows: llama(rows, tied=False),
    "bias": phi,
    "encoder": lambda rows: BertForMaskedLM(
        BertConfig(vocab_size=rows, hidden_size=16, max_position_embeddings=16, **SIZES)
    ),
}


def save(model, tokenizer, folder, **options):
    model.save_pretrained(str(folder), **options)
    tokenizer.save_pretrained(str(folder))
    return folder


def donor_rows(tokenizer, rows, hidden, seed):
    """Orthonormal rows, so that the pursuit finds what it must, and the known ones' mixtures."""
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.qr(torch.randn(hidden, hidden, generator=draw))[0][:rows].contiguous()
    ids = ids_of(tokenizer)
    for text, parts in RECIPE.items():
        matrix[ids[text]] = sum(weight * matrix[ids[part]] for part, weight in parts.items())
    return matrix


@pytest.fixture
def made(tmp_path):
    """A base, a donor and a new vocabulary, by family of the donor and kind of both models."""

    def make(kind="tied", spelled=sentencepiece, donor_tied=True, saving=None, known=KNOWN):
        torch.manual_seed(0)
        own, theirs = byte_level([*SHARED, *ALIEN]), spelled([*known, *SHARED])
        base = save(BASES[kind](len(own)), own, tmp_path / "base", **(saving or {}))
        donor = llama(len(theirs), hidden=320, tied=donor_tied)
        donor.get_input_embeddings().weight.data = donor_rows(theirs, len(theirs), 320, 1)
        if not donor_tied:
            donor.lm_head.weight.data = donor_rows(theirs, len(theirs), 320, 2)
        save(donor, theirs, tmp_path / "donor")
        new = byte_level([*SHARED, *NEW])
        folder = tmp_path / "tokenizer"
        new.save_pretrained(str(folder))
        delta = VocabDelta.between(
            *(vocabulary(spec_of(t.backend_tokenizer)) for t in (own, new)),
            lambda token: (1 + len(token), 2),
            text_of(spec_of(new.backend_tokenizer)),
        )
        return SimpleNamespace(
            base=base, donor=tmp_path / "donor", own=own, new=new, folder=folder, delta=delta
        )

    return make


def adapted(case, tmp_path, **section):
    section = EmbeddingsSection(init="omp", donor=str(case.donor), atoms=3, **section)
    return make_adapted_base(section, case.base, case, tmp_path / "adapted")


def tensors(folder):
    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(str(p)).items()}


def mixture(matrix, ids, text):
    return sum(weight * matrix[ids[part]] for part, weight in RECIPE[text].items())


SHARDS = {"max_shard_size": "4KB"}


@pytest.mark.parametrize("saving", [{}, SHARDS], ids=["one file", "shards"])
@pytest.mark.parametrize("kind", sorted(BASES))
@pytest.mark.parametrize("spelled", [byte_level, sentencepiece])
def test_a_combination_there_is_the_same_combination_here(kind, spelled, saving, made, tmp_path):
    case = made(kind, spelled, saving=saving)
    result = adapted(case, tmp_path)
    before, after = tensors(case.base), tensors(result.folder)
    old, new = ids_of(case.own), ids_of(case.new)
    kept_old, kept_new = case.delta.kept_ids
    assert len(result.tensors) >= {"tied": 1, "untied": 2, "bias": 3, "encoder": 2}[kind]
    for tensor in result.tensors:
        was, now = before[tensor.name], after[tensor.name]
        assert torch.equal(now[kept_new], was[kept_old])
        # `adapt.load` makes biases anew, without the donor.
        by_donor = KNOWN if tensor.role != "bias" else ()
        for text in by_donor:
            expected = mixture(was, old, text)
            torch.testing.assert_close(now[new[text]], expected, rtol=0, atol=1e-5)
        for token in case.delta.added:
            if token.text not in by_donor:
                mean = was[list(token.constituents)].mean(0)
                torch.testing.assert_close(now[token.id], mean)
        assert tensor.init == ("omp" if by_donor else "mean")
    for name in before.keys() - {tensor.name for tensor in result.tensors}:
        assert torch.equal(before[name], after[name])


def test_what_the_donor_lacks_is_counted_and_listed(made, tmp_path):
    case = made()
    result = adapted(case, tmp_path)
    told = result.transplanted
    missing = [t.text for t in case.delta.added if t.id in told.missing]
    assert (told.rebuilt, missing, told.atoms) == (2, [" pericardium"], 3)
    assert told.shared == len(SHARED) + 256 + 1
    assert told.left < 1e-4
    record = json.loads(json.dumps(result.to_json()))
    assert AdaptedBase.from_json(result.folder, record) == result


def test_output_rows_follow_the_donor_s_output_where_it_has_its_own(made, tmp_path):
    case = made("untied", donor_tied=False)
    donor = LlamaForCausalLM.from_pretrained(str(case.donor))
    ids = {text: id_ for text, id_ in ids_of(sentencepiece([*KNOWN, *SHARED])).items()}
    other = donor.lm_head.weight.data  # there a unit is made of one other token
    other[ids[" nephritis"]] = 2 * other[ids[" fluid"]]
    donor.save_pretrained(str(case.donor))
    result = adapted(case, tmp_path)
    before, after = tensors(case.base), tensors(result.folder)
    old, new = ids_of(case.own), ids_of(case.new)
    inputs, outputs = "model.embed_tokens.weight", "lm_head.weight"
    expected = mixture(before[inputs], old, " nephritis")
    torch.testing.assert_close(after[inputs][new[" nephritis"]], expected, rtol=0, atol=1e-5)
    expected = 2 * before[outputs][old[" fluid"]]
    torch.testing.assert_close(after[outputs][new[" nephritis"]], expected, rtol=0, atol=1e-5)


def test_output_rows_may_be_made_otherwise(made, tmp_path):
    case = made("untied")
    result = adapted(case, tmp_path, init_output="last")
    assert {t.role: t.init for t in result.tensors} == {"input": "omp", "output": "last"}
    before, after = tensors(case.base)["lm_head.weight"], tensors(result.folder)["lm_head.weight"]
    for token in case.delta.added:
        assert torch.equal(after[token.id], before[token.constituents[-1]])


def test_an_untied_copy_takes_the_input_s_combination(made, tmp_path):
    case = made("tied")
    result = adapted(case, tmp_path, untie=True)
    after = tensors(result.folder)
    new = case.delta.added_ids
    assert torch.equal(after["lm_head.weight"][new], after["model.embed_tokens.weight"][new])


def test_neither_base_nor_donor_is_touched(made, tmp_path):
    case = made()
    before = digest(case.base), digest(case.donor)
    adapted(case, tmp_path)
    assert (digest(case.base), digest(case.donor)) == before


def test_rows_beyond_the_donor_s_matrix_are_not_asked_for(made):
    case = made()
    specs = [spec_of(t.backend_tokenizer) for t in (case.own, case.new, sentencepiece(KNOWN))]
    added = [token.token for token in case.delta.added]
    known = vocabulary(specs[2])["\u2581mitral\u2581valve"]
    assert len(match(*specs, added, rows=1_000).new) == 2
    found = match(*specs, added, rows=known + 1)
    assert [case.delta.added[i].text for i in found.new] == [" mitral valve"]
    assert max(found.donor, default=0) <= known


def test_a_donor_without_a_common_token_is_refused(made, tmp_path):
    case = made()
    only = Tokenizer(models.Unigram([("<x>", 0.0), ("\u2581qq", -1.0)], unk_id=0))
    only.decoder = decoders.Metaspace()
    save(llama(2), PreTrainedTokenizerFast(tokenizer_object=only), tmp_path / "other")
    section = EmbeddingsSection(init="omp", donor=str(tmp_path / "other"))
    with pytest.raises(ModelError, match=r"^embeddings.donor: has no token in common"):
        make_adapted_base(section, case.base, case, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".adapted")]


# -- the recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ({"init": "omp"}, "embeddings: init omp needs donor"),
        (
            {"init": "mean", "donor": "org/model"},
            "embeddings: donor is for init omp, got init mean",
        ),
        ({"donor": "a/b"}, "embeddings: donor is for init omp, got init auto"),
        ({"init": "omp", "donor": "a/b", "atoms": 0}, "embeddings.atoms: input should be"),
    ],
)
def test_donor_and_omp_go_together(rows, line, tiny_recipe):
    rows = {"init": "auto", **rows}
    with pytest.raises(AdaptError, match=line.replace(".", r"\.")) as caught:
        load_recipe(tiny_recipe(embeddings=rows))
    assert "\n" not in str(caught.value)


def test_a_donor_that_cannot_be_had_is_named_before_work(tiny_recipe, tmp_path, tiny_base):
    def asked(donor):
        rows = {"init": "omp", "donor": donor}
        check(load_recipe(tiny_recipe(embeddings=rows)))

    (tmp_path / "empty").mkdir()
    for donor in ("no-such-org/no-such-model", "package:nothing", str(tmp_path / "empty")):
        with pytest.raises(ModelError, match=r"^embeddings.donor: ") as caught:
            check_donor(donor)
        assert donor in str(caught.value)
        assert "model.base" not in str(caught.value)
    with pytest.raises(AdaptError, match=r"embeddings.donor: "):
        asked("no-such-org/no-such-model")
    asked(str(tiny_base))


def test_a_donor_whose_tokens_cannot_be_compared_is_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "kidney": 1}, unk_token="[UNK]"))
    donor = save(llama(2), PreTrainedTokenizerFast(tokenizer_object=words), tmp_path / "words")
    with pytest.raises(ModelError, match=r"^embeddings.donor: its tokens are WordLevel"):
        check_donor(str(donor))


# -- a run ---------------------------------------------------------------------------------------


def test_a_new_tokenizer_with_a_donor_in_a_run(tiny_recipe, tmp_path, tiny_base):
    """The donor is a model that a first run made for the same tokenizer."""
    phase = {"name": "domain", "objective": "clm", "max_steps": 2, "max_length": 64}
    sections = {
        "tokenizer": {"mode": "train", "vocab_size": 300},
        "training": {"phases": [phase]},
        "evaluation": {"control": False, "tasks": []},
    }
    first = Pipeline(load_recipe(tiny_recipe(**sections)))
    first.prepared.adapted_base()
    donor = first.workspace.adapted_base
    out = str(tmp_path / "second")
    rows = {"init": "omp", "donor": str(donor), "atoms": 8}
    path = tiny_recipe(embeddings=rows, output_dir=out, **sections)
    second = Pipeline(load_recipe(path))
    summary = second.run()
    told = second.prepared.adapted_base().transplanted
    delta = second.prepared.vocabulary().delta
    assert delta.added
    assert (told.rebuilt, told.missing) == (len(delta.added), ())
    assert 0 < summary.scores["adapted"].domain.interval.value < 20
    manifest = second.workspace.manifest("embeddings")
    made = manifest.stat().st_mtime_ns
    assert Preparation(load_recipe(path)).adapted_base().transplanted == told
    assert manifest.stat().st_mtime_ns == made  # read, not made anew
    config = donor / "config.json"
    config.write_text(config.read_text() + "\n")  # another donor under the same name
    Preparation(load_recipe(path)).adapted_base()
    assert manifest.stat().st_mtime_ns != made


def test_an_adapter_of_rows_after_a_donor_loads(tiny_recipe, tiny_base, tmp_path):
    """The donor is not needed any more: the adapter has the rows."""
    donor = tmp_path / "donor"
    shutil.copytree(tiny_base, donor)
    phase = {"name": "domain", "objective": "clm", "max_steps": 2, "max_length": 64}
    path = tiny_recipe(
        embeddings={"init": "omp", "donor": str(donor)},
        training={"phases": [phase]},
        evaluation={"control": False, "tasks": []},
    )
    run = Pipeline(load_recipe(path))
    run.run()
    told = run.prepared.adapted_base().transplanted
    assert told.rebuilt == 0  # a donor like the base knows no unit, and every row is a mean
    assert list(told.missing) == run.prepared.vocabulary().delta.added_ids
    shutil.rmtree(donor)
    shutil.rmtree(run.workspace.adapted_base)
    model, tokenizer = adapt.load(run.workspace.adapter)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
