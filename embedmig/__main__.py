"""``python -m embedmig``: the command, where its script is not on the path."""

from embedmig.cli import main

main()
