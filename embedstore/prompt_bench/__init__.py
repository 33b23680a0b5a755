"""The prompt tournament on a store: the variants of prompt sets, for a label, on its vectors."""

from embedstore.prompt_bench.bench import Bench, bench
from embedstore.prompt_bench.contest import Asked, Contest, pose
from embedstore.prompt_bench.pick import HOW, Picked, choose

__all__ = ["HOW", "Asked", "Bench", "Contest", "Picked", "bench", "choose", "pose"]
