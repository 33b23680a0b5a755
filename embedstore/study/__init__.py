"""A study: backbones, heads, prompts and fine-tunes on one table and one split.

Data goes one way. A `plan` says what is compared; `pieces` makes of it pieces of work, each of
which has a key of all that decides its result; `work` does those that are not done yet and keeps
what they came to (`results`); `collect` puts that together into `findings`, which `tables` and the
page show. `recipe` has the study arXiv 2506.13964 beside its correction.
"""
