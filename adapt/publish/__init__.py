"""Publishing: a finished run to where others load it from."""
