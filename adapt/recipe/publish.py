"""Section `publish`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from adapt.recipe.section import Section


class PublishSection(Section):
    """Where the finished run goes, and what its card says that no file of the run knows."""

    push_to_hub: bool = Field(False, description="Upload when the run is done.")
    hub_model_id: str | None = Field(None, description="org/name on the Hub.")
    private: bool = Field(
        False, description="Make new repositories private; else the namespace's default holds."
    )
    create_pr: bool = Field(
        False, description="Open a pull request instead of changing the main branch."
    )
    what: list[Literal["adapter", "merged", "tokenizer", "base"]] = Field(
        ["adapter"],
        min_length=1,
        description="What is uploaded: the adapter, the merged model of `adapt merge`, the "
        "tokenizer alone, the adapted base. An adapter whose tokens have other ids than the base's "
        "brings the base along. Of several, one gets hub_model_id and the others that name with "
        "their kind, as in org/name-base.",
    )
    license: str | None = Field(
        None, description="Licence for the card, such as apache-2.0; null takes the base's."
    )
    language: list[str] = Field(
        [], description="Languages for the card, as ISO 639 codes such as en."
    )

    @model_validator(mode="after")
    def _named(self) -> PublishSection:
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id")
        return self
