"""The stages before training: the base, the text, the vocabulary, and the rows of new tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt import bases, fertility
from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.corpus.audit import DataAudit, audit
from adapt.corpus.findings import counter_of
from adapt.corpus.read import read_terms, terms_of
from adapt.embeddings.result import AdaptedBase
from adapt.recipe import Recipe, dump_recipe
from adapt.recipe.evaluation import SCORING_KEYS
from adapt.recipe.vocabulary import TokenizerSection
from adapt.stages import Stages, once
from adapt.trials import Asked, find_units, tied_or_not
from adapt.vocab import OUTPUT, Material, Vocabulary, adapt_vocabulary, load_tokenizer
from adapt.vocab.offsets import counting
from adapt.workspace import Workspace, digest, fingerprint, sampled_digest, write_json, write_text

if TYPE_CHECKING:
    from adapt.embeddings.build import Lesson
    from adapt.probe.sizes import Subject
    from adapt.probe.units import Units

# Bytes of training text that units are learned from: of more text, every n-th document. They are
# learned in memory, some 6 MB for each MB of text that does not repeat itself (16 where no word
# comes twice).
LEARNED_BYTES = 200_000_000


class Preparation:
    """What one process does for all.

    Every stage is a method that does its work once: called again, or in another process after
    the main one, it reads what was written.

    Args:
        recipe: Checked.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.workspace = Workspace(Path(recipe.output_dir))
        self.stages = Stages(self.workspace)

    def all(self) -> None:
        """Everything before training."""
        self._open_run_folder()
        self.audit()
        self.fertility()
        self.adapted_base()

    def build_tokenizer(self) -> fertility.FertilityReport:
        """The corpus and vocabulary stages alone, and what they save."""
        self._open_run_folder()
        return self.fertility()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes out of the run folder until the block ends.

        Raises:
            WorkspaceError: One is at work in it, or it holds something else.
        """
        self.workspace.claim(self.recipe.name, self.recipe.model.base)
        with self.workspace.held():
            yield

    def _open_run_folder(self) -> None:
        self.workspace.claim(self.recipe.name, self.recipe.model.base)
        self.workspace.root.mkdir(parents=True, exist_ok=True)
        write_text(self.workspace.recipe, dump_recipe(self.recipe))

    @once
    def base(self) -> bases.Base:
        """The base as a folder on disk, made out of a package or fetched when it is not there."""
        model = self.recipe.model
        return bases.resolve(model.base, model.revision)

    @once
    def corpus(self) -> Corpus:
        """Domain text, read, cleaned and split."""
        section, tasks = self.recipe.corpus, self.recipe.evaluation.tasks
        paths = [s.path for s in (*section.sources, *section.general)] + [t.path for t in tasks]
        inputs = {
            "section": section.model_dump(),
            "tasks": [task.model_dump(exclude=SCORING_KEYS) for task in tasks],
            "seed": self.recipe.seed,
            "files": {p: digest(Path(p)) for p in paths if p and Path(p).is_file()},
        }
        folder = self.workspace.corpus
        return self.stages.run(
            "corpus",
            inputs,
            lambda: build_corpus(section, tasks, self.recipe.seed, folder),
            lambda corpus: asdict(corpus.statistics),
            lambda _: open_corpus(folder),
        )

    @once
    def audit(self) -> DataAudit:
        """What deserves a look in the data that was read, for the report."""
        self.corpus()
        section, tasks = self.recipe.corpus, self.recipe.evaluation.tasks
        phases = self.recipe.training.phases
        inputs = {
            "corpus": self.stages.marks["corpus"],
            "phases": [
                phase.model_dump(include={"name", "objective", "tasks", "max_length"})
                for phase in phases
            ],
            "base": identity(self.base()),
        }

        def work() -> DataAudit:
            tokenizer = counting(self.tokenizer(self.base().folder).backend_tokenizer)
            count, seed = counter_of(tokenizer), self.recipe.seed
            return audit(section, tasks, phases, seed=seed, count_tokens=count)

        return self.stages.run("audit", inputs, work, DataAudit.to_json, DataAudit.from_json)

    @once
    def units(self) -> Units | None:
        """How many units `new_tokens: auto` adds; None where that is not asked for.

        What writes no text has no bits per byte: there tokens alone decide, as with `curve`.
        """
        if self.recipe.tokenizer.new_tokens != "auto" or not bases.writes_text(self.base().folder):
            return None
        from adapt.probe.units import Units

        inputs = {
            "section": self.recipe.tokenizer.model_dump(),
            "embeddings": self.recipe.embeddings.model_dump(),
            "base": identity(self.base()),
            "seed": self.recipe.seed,
            "probe": self._probed_with(),
        }
        return self.stages.run(
            "units",
            inputs,
            lambda: find_units(self, self._candidate),
            Units.to_json,
            Units.from_json,
        )

    def _candidate(self, asked: Asked, work: Path) -> Preparation:
        """The same recipe with other units, in a folder of its own."""
        number, multiword = asked
        units = {"new_tokens": number, "multiword": multiword}
        tokenizer = self.recipe.tokenizer.model_copy(update=units)
        folder = work / ("across" if multiword else "inside") / str(number)
        change = {"tokenizer": tokenizer, "output_dir": str(folder)}
        one = Preparation(self.recipe.model_copy(update=change))
        one.stages.results = {("base",): self.base(), ("corpus",): self.corpus()}
        one.stages.marks["corpus"] = self.stages.marks["corpus"]
        return one

    def _tokenizer_section(self) -> TokenizerSection:
        """The recipe's, with the units that `auto` found."""
        section, units = self.recipe.tokenizer, self.units()
        if units is None:
            return section
        if units.best is None:
            return section.model_copy(update={"mode": "keep"})
        chosen = {"new_tokens": units.best.new_tokens, "multiword": units.best.multiword}
        return section.model_copy(update=chosen)

    @once
    def vocabulary(self) -> Vocabulary:
        """The adapted tokenizer."""
        base, corpus, section = self.base(), self.corpus(), self._tokenizer_section()
        folder = self.workspace.tokenizer
        read_only = self.recipe.embeddings.units == "input"
        material = Material(
            texts=lambda: corpus.documents("train"),
            general=corpus.general_sample,
            validation=lambda: corpus.documents("validation"),
            terms=terms_of(section.terms, "tokenizer.terms"),
            score_terms=terms_of(section.score_terms or [], "tokenizer.score_terms"),
            model=self._size() if isinstance(section.new_tokens, str) else None,
            every=max(1, -(-corpus.statistics.splits["train"].bytes_ // LEARNED_BYTES)),
        )
        found = self.stages.run(
            "vocab",
            {
                "section": section.model_dump(),
                "units": self.recipe.embeddings.units,
                "corpus": self.stages.marks["corpus"],
                "base": identity(base),
                "terms": fingerprint([material.terms, material.score_terms]),
                **({"every": material.every} if material.every > 1 else {}),
            },
            lambda: adapt_vocabulary(
                section, self.tokenizer(base.folder), material, folder, read_only=read_only
            ),
            Vocabulary.to_json,
            lambda record: Vocabulary.from_json(folder, record),
        )
        units = self.units()
        if units is None:
            return found
        return replace(found, curve=units.curve, notes=(units.note, *found.notes))

    def _size(self) -> bases.ModelSize:
        """Of the base, whose weights may still lie in pickles."""
        from adapt.embeddings.convert import with_safetensors

        trust = self.recipe.model.trust_remote_code
        return bases.size(with_safetensors(self.base().folder, trust_remote_code=trust))

    @once
    def fertility(self) -> fertility.FertilityReport:
        """Tokenization of held-out text, before and after."""
        vocabulary, corpus = self.vocabulary(), self.corpus()
        path = self.recipe.evaluation.terms
        terms = read_terms(Path(path), "evaluation.terms") if path else []
        inputs = {"vocab": self.stages.marks["vocab"], "terms": fingerprint(terms)}
        target = self.workspace.reports / "fertility.json"

        def work() -> fertility.FertilityReport:
            tokenizers = {
                "base": self.tokenizer(self.base().folder).backend_tokenizer,
                "adapted": self.tokenizer(vocabulary.folder).backend_tokenizer,
            }

            def measured(
                texts: Callable[[], Iterable[str]], kind: str
            ) -> tuple[fertility.Fertility, ...]:
                return tuple(
                    fertility.measure(tokenizer, texts(), name=name, terms=terms, progress=True)
                    for name, tokenizer in tokenizers.items()
                    if corpus.statistics.splits[kind].documents
                )

            report = fertility.FertilityReport(
                measured(lambda: corpus.documents("test"), "test"),
                measured(corpus.general, "general"),
            )
            write_json(target, report.to_json())
            return report

        to_json, from_json = (
            fertility.FertilityReport.to_json,
            fertility.FertilityReport.from_json,
        )
        return self.stages.run("fertility", inputs, work, to_json, from_json)

    @once
    def adapted_base(self) -> AdaptedBase:
        """The base checkpoint with rows for the new tokens."""
        from adapt.embeddings.build import make_adapted_base
        from adapt.embeddings.donor import find_donor

        base, vocabulary, section = self.base(), self.vocabulary(), self.recipe.embeddings
        folder = self.workspace.adapted_base
        model, seed = self.recipe.model, self.recipe.seed
        lesson = self._lesson() if self._learns_rows() else None
        # Nothing is ever predicted by rows that are only read, and what writes no text has no
        # bits per byte.
        decides = section.untie == "auto" and not vocabulary.delta.read_only
        decides = decides and bases.writes_text(base.folder)

        def made(untie: bool, target: Path) -> AdaptedBase:
            return make_adapted_base(
                section.model_copy(update={"untie": untie}),
                base.folder,
                vocabulary,
                target,
                lesson=lesson,
                seed=seed,
                trust_remote_code=model.trust_remote_code,
            )

        return self.stages.run(
            "embeddings",
            {
                "section": section.model_dump(),
                "vocab": self.stages.marks["vocab"],
                "seed": seed,
                "dtype": model.dtype,
                **({"probe": self._probed_with()} if decides else {}),
                **({"donor": identity(find_donor(section.donor))} if section.donor else {}),
            },
            lambda: tied_or_not(self, made) if decides else made(section.untie is True, folder),
            AdaptedBase.to_json,
            lambda record: AdaptedBase.from_json(folder, record),
        )

    def _probed_with(self) -> list[object]:
        """What decides a probe's outcome, besides what decides the rows."""
        recipe = self.recipe
        self.corpus()
        return [
            recipe.training.model_dump(),
            recipe.model.model_dump(),
            self.stages.marks["corpus"],
        ]

    def subject(self, name: Literal["base", "adapted"], checkpoint: Path) -> Subject:
        """A checkpoint to probe, as the base or as the adapted model.

        Args:
            name: Which of the two it is, and so its tokenizer.
            checkpoint: Folder.
        """
        from adapt.probe.sizes import Subject

        vocabulary, adapted = self.vocabulary(), name == "adapted"
        folder = vocabulary.folder if adapted else self.base().folder
        delta = vocabulary.delta
        writer = self.tokenizer(vocabulary.folder / OUTPUT) if delta.read_only else None
        ids = tuple(delta.added_ids) if adapted else ()
        return Subject(name, checkpoint, self.tokenizer(folder), folder, ids, writer)

    def _learns_rows(self) -> bool:
        """Whether new rows are distilled; `auto` does so where it can be done."""
        if self.recipe.embeddings.init != "auto":
            return self.recipe.embeddings.init == "distill"
        return self.recipe.tokenizer.mode != "train" and bases.writes_text(self.base().folder)

    def _lesson(self) -> Lesson:
        """Training text for rows that are learned from the base."""
        from adapt.embeddings.build import Lesson
        from adapt.training.batches import start_ids
        from adapt.training.model import best_dtype

        corpus, tokenizer = self.corpus(), self.tokenizer(self.base().folder)
        dtype = best_dtype(self.recipe.model.dtype)
        return Lesson(
            lambda: corpus.documents("train"), start_ids(tokenizer), dtype, corpus.general_sample
        )

    def tokenizer(self, folder: Path | str) -> Any:  # noqa: ANN401
        """The tokenizer of a folder, as the recipe trusts it."""
        return load_tokenizer(folder, trust_remote_code=self.recipe.model.trust_remote_code)


def identity(base: bases.Base) -> list[object]:
    """What tells one base from another, or from itself trained on, wherever it was copied to."""
    files = sorted(p for p in base.folder.iterdir() if p.is_file())
    told = [(p.name, p.stat().st_size, sampled_digest(p)) for p in files]
    return [base.given, told, base.revision]
