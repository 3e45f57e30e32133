"""`accelerate launch scripts/train.py recipes/medical.yaml` is `adapt run recipes/medical.yaml`."""

import sys

from adapt.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
