"""Prompt sets: small files of classes, descriptions and templates, and the sentences they make.

`sets.load` reads one, `expand.expand` makes its variants, `lengths.check_lengths` counts tokens.
"""
