"""The recipe: what one run does, checked before it starts."""

from adapt.recipe.load import dump_recipe, json_schema, load_recipe
from adapt.recipe.schema import Recipe

__all__ = ["Recipe", "dump_recipe", "json_schema", "load_recipe"]
