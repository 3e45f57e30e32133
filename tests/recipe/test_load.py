"""A wrong recipe is refused with everything that is wrong with it, each with its place."""

import string

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.errors import RecipeError, RecipeErrors
from adapt.recipe import dump_recipe, load_recipe
from adapt.recipe.schema import Recipe

WITHIN_A_TEST = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def test_minimal_recipe_is_fine(problems, minimal):
    assert problems(minimal) == []


# -- files that are no recipe ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "recipe.yaml: a recipe is a mapping of sections, got 'NoneType'"),
        ("- a", "recipe.yaml: a recipe is a mapping of sections, got 'list'"),
        ("a:\n\t- b", "recipe.yaml:2: not valid YAML, found character '\\t' that cannot start any"),
        ("a: [1", "recipe.yaml:1: not valid YAML, "),
        ("a: *b", "recipe.yaml:1: not valid YAML, found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "recipe.yaml:2: not valid YAML, but found another document"),
        ("name: r\nseed: 1\nname: s", "recipe.yaml:3: not valid YAML, key name is given twice"),
        ("a: {b: 1,\n  b: 2}", "recipe.yaml:2: not valid YAML, key b is given twice"),
        ("? [a, b]\n: c", "recipe.yaml:1: not valid YAML, a key is a word"),
        ("a:\n  b: 2024-13-45", "recipe.yaml:2: not valid YAML, month must be in 1..12"),
        ("a: 0x_", "recipe.yaml:1: not valid YAML, invalid literal"),
        ("a: !!python/name:os.system", "recipe.yaml:1: not valid YAML, could not determine a"),
        ("a: " + "[" * 3000, "recipe.yaml: not a recipe, nested too deeply"),
        ("a: \0", "recipe.yaml: not valid YAML, "),
    ],
)
def test_text_that_is_no_recipe(problems, text, line):
    (problem,) = problems(text)
    assert problem.startswith(line)
    assert "\n" not in problem


def test_not_utf_8_is_named_with_its_byte(problems):
    assert problems(b"name: caf\xe9\n") == ["recipe.yaml: not UTF-8 at byte 9"]


def test_byte_order_mark_is_no_harm(write, minimal):
    assert load_recipe(write("\ufeff" + yaml.safe_dump(minimal))).name == "r"


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(RecipeError, match="none.yaml: no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read, Is a directory"):
        load_recipe(tmp_path)


def test_yaml_anchors_and_merges_work(write):
    text = """
name: r
output_dir: run
model: {base: org/model}
corpus: {sources: [{path: corpus.jsonl}]}
training:
  phases:
    - &first {name: one, objective: clm, max_steps: 10, max_length: 64}
    - {<<: *first, name: two}
"""
    first, second = load_recipe(write(text)).training.phases
    assert second == first.model_copy(update={"name": "two"})


# -- keys and values ---------------------------------------------------------------------------


def test_unknown_key_names_line_path_and_nearest_key(problems):
    text = (
        "name: r\noutput_dir: run\nmodel: {base: org/model}\ncorpus:\n  sources:\n"
        "    - path: a.jsonl\ntokenizer:\n  mode: extend\n  new_tokns: 5\n"
        "training:\n  phases:\n    - {name: d, objective: clm, max_steps: 1}\n"
    )
    assert problems(text) == [
        "recipe.yaml:9: tokenizer.new_tokns: unknown key; did you mean new_tokens?"
    ]


@pytest.mark.parametrize(
    ("place", "key", "line"),
    [
        ((), "tokeniser", "tokeniser: unknown key; did you mean tokenizer?"),
        ((), "generation", "generation: unknown key; "),
        (("model",), "zzz", "model.zzz: unknown key; known: attn_implementation, base, "),
        (("corpus", "sources", 0), "txt", "corpus.sources.0.txt: unknown key; did you mean text?"),
        (("training", "phases", 0), "lr", "training.phases.0.lr: unknown key; "),
        (("evaluation", "tasks", 0), "lable", "evaluation.tasks.0.lable: unknown key; did you me"),
        (("evaluation", "tasks", 1), "generation", "evaluation.tasks.1.generation: unknown key; "),
    ],
)
def test_unknown_key_at_any_depth(problems, minimal, place, key, line):
    here = minimal
    for part in place:
        here = here[part]
    here[key] = 1
    (problem,) = problems(minimal)
    assert problem.partition(": ")[2].startswith(line)


def test_keys_offered_are_those_of_the_kind_of_task(problems, minimal):
    minimal["evaluation"]["tasks"][0]["zzz"] = 1
    known = problems(minimal)[0].partition("known: ")[2].split(", ")
    assert {"kind", "label", "prompt", "text"} <= set(known)
    assert not {"target", "max_new_tokens"} & set(known)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=x", "seed: input should be a valid integer, got 'x'"),
        ("seed=1.0", "seed: input should be a valid integer, got 1.0"),
        ("seed=true", "seed: input should be a valid integer, got True"),
        ("seed=-1", "seed: input should be greater than or equal to 0, got -1"),
        ("seed=", "seed: input should be a valid integer, got nothing"),
        ("name=3", "name: input should be a valid string, got 3"),
        ("name=a/b", "name: string should match pattern '^[\\w.-]+$', got 'a/b'"),
        ("tokenizer.new_tokens=0", "tokenizer.new_tokens: input should be greater than 0, got 0"),
        ("tokenizer.new_tokens=-5", "tokenizer.new_tokens: input should be greater than 0, got -5"),
        ("tokenizer.new_tokens='5'", "tokenizer.new_tokens: input should be a valid integer, got"),
        (
            "tokenizer.mode=extent",
            "tokenizer.mode: not a known choice, got 'extent'; did you mean ",
        ),
        ("embeddings.init=3", "embeddings.init: not a known choice, got 3; known: auto, "),
        ("tokenizer=[]", "tokenizer: should be a section with keys of its own, got a list"),
        ("model=", "model: should be a section with keys of its own, got nothing"),
        ("training.phases=[]", "training.phases: list should have at least 1 item"),
        ("training.phases.0=3", "training.phases.0: should be a section with keys of its own, got"),
        ("training.lora.target_modules=3", "training.lora.target_modules: input should be a valid"),
        ("training.lora.target_modules=[q, 3]", "training.lora.target_modules.1: input should be"),
        ("training.lora.lora_dropout=1.0", "training.lora.lora_dropout: input should be less than"),
        ("training.phases.0.learning_rate=.inf", "training.phases.0.learning_rate: input should"),
        ("training.phases.0.learning_rate=.nan", "training.phases.0.learning_rate: input should"),
        ("evaluation.tasks.0.kind=clasification", "evaluation.tasks.0: not a known choice, got '"),
        ("corpus.sources.0.dataset=d", "corpus.sources.0: give either path or dataset"),
        ("corpus.sources.0={}", "corpus.sources.0: give either path or dataset"),
        ("corpus.test_fraction=1", "corpus.test_fraction: input should be less than 1, got 1"),
        ("publish.push_to_hub=true", "publish: push_to_hub needs hub_model_id"),
        ("publish={push_to_hub: true, hub_model_id: ''}", "publish: push_to_hub needs hub_model_"),
        ("evaluation.tasks.1.prompt='{a} {q}'", "evaluation.tasks.1: the prompt shows the target "),
        ("evaluation.tasks.1.prompt='{}'", "evaluation.tasks.1: prompt fields must be column nam"),
        ("evaluation.tasks.1.prompt='{q'", "evaluation.tasks.1: expected '}' before end of string"),
        ("evaluation.tasks.0.prompt='{label}'", "evaluation.tasks.0: the prompt shows the label "),
        ("evaluation.tasks.0.label=text", "evaluation.tasks.0: text and label are the same column"),
    ],
)
def test_wrong_value(problems, minimal, override, line):
    (problem,) = problems(minimal, override)
    assert problem.startswith((f"override {line}", "recipe.yaml:"))
    assert line in problem
    assert "\n" not in problem


def test_required_keys(problems, minimal):
    for key in ("name", "model", "corpus", "training"):
        del minimal[key]
    del minimal["evaluation"]["tasks"][1]["kind"]
    assert sorted(problems(minimal)) == [
        "recipe.yaml: corpus: missing",
        "recipe.yaml: model: missing",
        "recipe.yaml: name: missing",
        "recipe.yaml: training: missing",
        "recipe.yaml:7: evaluation.tasks.1.kind: missing; known: classification, generation",
    ]


def test_two_of_one_name(problems, minimal):
    minimal["training"]["phases"] *= 2
    minimal["evaluation"]["tasks"][1]["name"] = "c"
    assert [p.partition(": ")[2] for p in problems(minimal)] == [
        "training: two phases have the same name",
        "evaluation: two tasks have the same name",
    ]


def test_sft_needs_tasks(problems, minimal):
    minimal["training"]["phases"][0]["objective"] = "sft"
    del minimal["evaluation"]
    assert problems(minimal) == [
        "recipe.yaml: a phase with objective sft needs evaluation.tasks to train on"
    ]


def test_all_problems_are_reported_at_once(problems, minimal):
    minimal["sed"] = 1
    minimal["model"]["dtype"] = "int4"
    minimal["training"]["phases"][0]["max_steps"] = "ten"
    minimal["evaluation"]["tasks"][1]["target"] = "q"
    found = problems(minimal, "tokenizer.new_tokens=0", "corpus.nromalize=nfc")
    places = ["sed", "model.dtype", "training.phases.0.max_steps", "evaluation.tasks.1"]
    places += ["override tokenizer.new_tokens", "override corpus.nromalize"]
    assert len(found) == len(places)
    for place in places:
        assert any(f"{place}: " in problem for problem in found)


def test_message_is_a_line_a_problem(write, minimal):
    minimal["model"]["base"] = 3
    minimal["name"] = "a\nb"
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write(minimal))
    assert len(str(caught.value).splitlines()) == len(caught.value.problems) == 2


# -- overrides ---------------------------------------------------------------------------------


def test_overrides_are_yaml_and_reach_any_depth(write, minimal):
    recipe = load_recipe(
        write(minimal),
        [
            "training.phases.0.max_steps=20",
            "training.phases.0.learning_rate=5e-4",
            "tokenizer.terms=[blood pressure, 'a=b']",
            "training.lora.target_modules=[q_proj]",
            "corpus.near_duplicate=null",
            "evaluation.control=false",
            "output_dir=runs/a=b",
            "seed=1",
            "seed=2",
        ],
    )
    phase = recipe.training.phases[0]
    assert (phase.max_steps, phase.learning_rate) == (20, 0.0005)
    assert recipe.tokenizer.terms == ["blood pressure", "a=b"]
    assert recipe.training.lora.target_modules == ["q_proj"]
    assert recipe.corpus.near_duplicate is None
    assert recipe.evaluation.control is False
    assert recipe.output_dir == "runs/a=b"
    assert recipe.seed == 2


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "seed: an override reads path=value"),
        ("=1", "=1: an override reads path=value"),
        ("name.first=x", "name.first: name has no parts"),
        ("training.phases.1.max_steps=1", "training.phases.1.max_steps: no such item, got '1'; "),
        ("training.phases.-1.max_steps=1", "training.phases.-1.max_steps: no such item, got '-1'"),
        ("training.phases.first.max_steps=1", "training.phases.first.max_steps: no such item, "),
        ("seed=[1", "seed: the value is not valid YAML, got '[1'"),
        ("name=2024-13-45", "name: the value is not valid YAML, got '2024-13-45'"),
        ("name={a: 1, a: 2}", "name: the value is not valid YAML, got "),
        ("tokenizer.new_tokns=5", "override tokenizer.new_tokns: unknown key; did you mean new_to"),
        ("tokenizer={new_tokns: 5}", "override tokenizer.new_tokns: unknown key; did you mean "),
        ("tokeniser.mode=keep", "override tokeniser: unknown key; did you mean tokenizer?"),
        ("a..b=1", "override a: unknown key; "),
    ],
)
def test_wrong_override(problems, minimal, override, line):
    (problem,) = problems(minimal, override)
    assert problem.startswith(line)
    assert "recipe.yaml" not in problem


def test_override_without_fault_leaves_the_file_s_place(problems, minimal):
    minimal["model"]["bse"] = "x"
    (problem,) = problems(minimal, "model.base=org/other")
    assert problem.startswith("recipe.yaml:5: model.bse: unknown key")


# -- properties --------------------------------------------------------------------------------

NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
FLOATS = st.floats(min_value=1e-12, max_value=1e12, allow_nan=False)


@WITHIN_A_TEST
@given(
    name=NAMES | st.sampled_from(["1e5", "5e-4", "null", "on", "0x1f", "1_000", "2024-01-01", "."]),
    output_dir=TEXTS,
    rate=FLOATS,
    terms=st.lists(TEXTS, max_size=3),
    seed=st.integers(0, 2**63),
    modules=TEXTS | st.lists(TEXTS, max_size=2),
    threshold=st.none() | st.floats(0.001, 1.0),
)
def test_dump_then_load_is_the_identity(
    write, minimal, name, output_dir, rate, terms, seed, modules, threshold
):
    minimal |= {"name": name, "output_dir": output_dir, "seed": seed, "tokenizer": {"terms": terms}}
    minimal["training"]["phases"][0]["learning_rate"] = rate
    minimal["training"]["lora"] = {"target_modules": modules}
    minimal["corpus"]["near_duplicate"] = threshold
    recipe = Recipe.model_validate(minimal)
    dumped = dump_recipe(recipe)
    assert load_recipe(write(dumped)) == recipe
    assert dump_recipe(load_recipe(write(dumped))) == dumped
    # Other programs, and `Workspace.claim`, read it with plain YAML.
    plain = yaml.safe_load(dumped)
    assert (plain["name"], plain["output_dir"]) == (name, output_dir)


def places(value, path=()):
    """Every place in a recipe, as a path."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)


@WITHIN_A_TEST
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_in_lines(problems, minimal, data):
    full = Recipe.model_validate(minimal).model_dump()
    path = data.draw(st.sampled_from([place for place in places(full) if place]))
    here = full
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = data.draw(VALUES)
    for problem in problems(full):
        assert problem.startswith("recipe.yaml")
        assert "\n" not in problem


@WITHIN_A_TEST
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_no_file_content_gets_past(problems, content):
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    assert problems(raw)


@WITHIN_A_TEST
@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(["", "seed=", "tokenizer.terms=", "a."]),
)
def test_any_override_is_taken_or_refused_in_lines(problems, minimal, text, prefix):
    assert all("\n" not in problem for problem in problems(minimal, prefix + text))
