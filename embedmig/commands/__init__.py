"""The commands without the terminal: one file a command, one function named after it, returning dataclasses.

``embedmig`` exports them; nothing is imported here, so that a command loads what it needs and not what the others need.
Commands that only look open a read-only session and want SELECT alone.
"""
