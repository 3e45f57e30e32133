"""What a fine-tuned model has to beat: counting words, and always saying the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adapt.evaluation.classification import Classified, likeliest

MANY = 1000  # texts


def majority(
    texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int
) -> Classified:
    """The most frequent label of the training side, whatever is asked; its share is the confidence.

    Args:
        texts: Of the training side.
        labels: One a text.
        asked: Texts to put under a label.
        seed: Of no use here.
    """
    counts = Counter(labels)
    names = tuple(sorted(counts))
    shares = np.array([counts[name] for name in names]) / len(labels)
    return likeliest(names, np.tile(shares, (len(asked), 1)))


def tf_idf(
    texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int
) -> Classified:
    """Logistic regression on tf-idf of words and pairs of words (sublinear term frequency).

    L2 penalty with C = 10, lower-cased words of two letters or more, and of many texts only what
    two of them hold (docs/decisions.md). It learns from the whole training side, of which a
    fine-tuned model may see a part.

    Args:
        texts: Of the training side.
        labels: One a text.
        asked: Texts to put under a label.
        seed: Of the solver.
    """
    if len(set(labels)) < 2:
        return majority(texts, labels, asked, seed)
    model = _fitted(_regression(seed), texts, list(labels))
    names = tuple(str(name) for name in model.classes_)
    return likeliest(names, model.predict_proba(list(asked)))


def majority_sets(
    texts: Sequence[str], labels: Sequence[Sequence[str]], asked: Sequence[str], seed: int
) -> list[list[str]]:
    """The most frequent set of labels of the training side, whatever is asked.

    Args:
        texts: Of the training side.
        labels: Of each text, none or several.
        asked: Texts to label.
        seed: Of no use here.
    """
    most = Counter(tuple(sorted(one)) for one in labels).most_common(1)[0][0]
    return [list(most) for _ in asked]


def tf_idf_sets(
    texts: Sequence[str], labels: Sequence[Sequence[str]], asked: Sequence[str], seed: int
) -> list[list[str]]:
    """`tf_idf` for each label by itself; a text gets those with probability 1/2 or more.

    Where no text of the training side has a label, none is given.

    Args:
        texts: Of the training side.
        labels: Of each text, none or several.
        asked: Texts to label.
        seed: Of the solver.
    """
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    coder = MultiLabelBinarizer()
    truth = coder.fit_transform(labels)
    if not len(coder.classes_):
        return [[] for _ in asked]
    model = _fitted(_regression(seed, OneVsRestClassifier), texts, truth)
    # Of one label scikit-learn gives a flat row of answers, and no column.
    found = coder.inverse_transform(model.predict(list(asked)).reshape(-1, truth.shape[1]))
    return [[str(label) for label in one] for one in found]


def _regression(seed: int, around: Callable[..., Any] = lambda model: model) -> Any:  # noqa: ANN401
    from sklearn.linear_model import LogisticRegression

    return around(LogisticRegression(C=10.0, tol=1e-3, max_iter=1000, random_state=seed))


def _fitted(model: Any, texts: Sequence[str], truth: Any) -> Any:  # noqa: ANN401
    """The model behind tf-idf, fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(texts) >= MANY else 1
    )
    behind = make_pipeline(words, model)
    try:
        behind.fit(list(texts), truth)
    except ValueError as error:
        if not any(said in str(error) for said in ("empty vocabulary", "no terms remain")):
            raise
        # Not one word of two letters: characters and pairs of them take the place of words.
        behind.set_params(tfidfvectorizer__analyzer="char").fit(list(texts), truth)
    return behind


# By the name that reports show.
BASELINES: dict[str, Callable[..., Classified]] = {"tf-idf": tf_idf, "majority": majority}

# The same where a text may have several labels.
SET_BASELINES: dict[str, Callable[..., list[list[str]]]] = {
    "tf-idf": tf_idf_sets,
    "majority": majority_sets,
}
