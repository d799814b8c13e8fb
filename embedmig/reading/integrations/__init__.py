"""Readers as other libraries want them, each in a file of its own, which alone imports its library.

The rows are those of the application's table: nothing is written through any of these, and no vector is given to them.
"""
