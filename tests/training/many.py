"""What `torchrun` starts in test_distributed: trains several recipes in one group of processes.

    torchrun --nproc_per_node 2 tests/training/many.py out.json recipe.yaml ... --break-at N

Run folders must be prepared, as `adapt run` leaves them before training. The first training of
each recipe ends with an error at step N of its second phase; the same recipe is then run again.
The main process writes what each recipe met, its name to its losses or its error.
"""

import json
import sys
from pathlib import Path

from adapt.errors import AdaptError
from adapt.pipeline import Pipeline
from adapt.processes import Processes, is_main
from adapt.recipe import load_recipe
from adapt.training.callbacks import Checkpoints


class BrokenError(Exception):
    """In place of a kill, which would end the group that the other recipes need too."""


def break_once(step):
    """Ends the first training of each recipe at a step of its second phase."""
    broken = set()

    def on_step_begin(self, args, state, control, **kwargs):
        here = Path(args.output_dir)
        if state.global_step == step and here.name == "second" and here not in broken:
            broken.add(here)
            raise BrokenError

    Checkpoints.on_step_begin = on_step_begin


def train(path):
    trained = Pipeline(load_recipe(path)).tuned.adapter()
    return [[loss for _, loss in phase.losses] for phase in trained.phases]


def broken_and_resumed(path):
    try:
        train(path)
    except AdaptError as error:
        return str(error)
    except BrokenError:
        output = Path(load_recipe(path).output_dir)
        assert list(output.glob("checkpoints/*/second/checkpoint-2"))
        return train(path)
    raise AssertionError("was not broken off")


def main(out, *arguments):
    *paths, _, step = arguments
    processes = Processes()
    break_once(int(step))
    found = {}
    for path in paths:
        found[Path(path).stem] = broken_and_resumed(path)
        if is_main():
            Path(out).write_text(json.dumps(found))
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
