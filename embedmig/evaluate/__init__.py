"""Quality of versions: golden sets, what each version finds for them, and how two versions differ.

``golden`` reads and draws sets, ``measures`` holds the arithmetic, ``answering`` asks a space, ``comparing`` sets two
versions side by side. Nothing here changes anything.
"""
