"""Section `publish`."""

from __future__ import annotations

from pydantic import Field, model_validator

from adapt.recipe.section import Section


class PublishSection(Section):
    """Where the finished adapter goes."""

    push_to_hub: bool = Field(False, description="Upload the adapter when the run is done.")
    hub_model_id: str | None = Field(None, description="org/name on the Hub.")
    private: bool = Field(False, description="Make a new repository private.")

    @model_validator(mode="after")
    def _named(self) -> PublishSection:
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id")
        return self
