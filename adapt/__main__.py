"""`python -m adapt` is `adapt`."""

from adapt.cli import main

main()
