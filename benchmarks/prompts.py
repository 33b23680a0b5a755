"""Prompt variants: how many a second, and whether they are scored right.

python benchmarks/prompts.py [--variants 10000] [--whole]

20,000 x 512 image vectors, four classes as skewed as a screening set, and variants that word each
class by a sentence of its own: AUROC, macro F1 and quadratic kappa of all of them. In the same run,
on the same vectors, a sample of them by a loop over numpy and scikit-learn; against others:
peers.py. `--whole` is the tournament with everything: priors, choices by fold, the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from embedstore.tournament import Entries, Scores, Task, play, scored, tested_side
from embedstore.types import Floats, unit_rows

RESULT = Path(__file__).parent / "results" / "prompts.json"
SHARES = (0.11, 0.21, 0.47, 0.21)
COMPARED = ("auroc", "macro_f1", "quadratic_kappa")


def vectors(n: int, d: int, variants: int) -> tuple[Task, Floats]:
    """Images with a little signal, and as many sentences as variants and classes ask for.

    A sentence is the words of its class, the words of its variant, and chance.
    """
    rng = np.random.default_rng(0)
    k = len(SHARES)
    truth = rng.choice(k, n, p=SHARES)
    classes, common = rng.standard_normal((k, d)), 3 * rng.standard_normal(d)
    images = unit_rows(0.06 * classes[truth] + common + rng.standard_normal((n, d)))
    sentences = np.empty((variants * k, d), dtype=np.float32)
    for v in range(variants):
        words = common + rng.standard_normal(d)
        sentences[v * k : (v + 1) * k] = classes + words + 0.5 * rng.standard_normal((k, d))
    groups = np.arange(n) // 4
    return Task(images, truth, groups, groups % 5, tuple("ABCD")), unit_rows(sentences)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def by_loop(task: Task, texts: Floats, sample: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Three metrics (sample, 3) and answers (sample, n) by numpy in float64 and scikit-learn."""
    k, out, answers = len(task.classes), [], []
    for v in range(sample):
        logits = task.images.astype(np.float64) @ texts[v * k : (v + 1) * k].T.astype(np.float64)
        logits /= task.temperature
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        answer = p.argmax(axis=1)
        answers.append(answer)
        out.append(
            (
                sk.roc_auc_score(task.truth, p, multi_class="ovr"),
                sk.f1_score(task.truth, answer, average="macro"),
                sk.cohen_kappa_score(task.truth, answer, weights="quadratic"),
            )
        )
    return np.array(out), np.array(answers)


def compared(task: Task, texts: Floats, found: Scores, each: float, sample: int) -> dict[str, Any]:
    """Time a sample of the variants otherwise, and compare what came out."""
    seconds, (expected, answers) = timed(lambda: by_loop(task, texts, sample))
    confusions = [sk.confusion_matrix(task.truth, answer) for answer in answers]
    return {
        "sample": sample,
        "answers": answers.size,
        "answers_in_another_cell": int(np.abs(found.counts[:sample] - confusions).sum()) // 2,
        "loop_ms_a_variant": round(1000 * seconds / sample, 1),
        "times_faster_than_the_loop": round(seconds / sample / each, 1),
        "largest_difference": {
            name: float(f"{np.abs(found.metric(name)[:sample] - expected[:, i]).max():.1e}")
            for i, name in enumerate(COMPARED)
        },
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    task, texts = vectors(given.images, 512, given.variants)
    k = len(task.classes)
    wordings = [tuple((v * k + c,) for c in range(k)) for v in range(given.variants)]
    entries = Entries.of(texts, wordings)
    sides = [tested_side(task, False), tested_side(task, True)]
    scored(task, entries.only(range(64)), sides)
    seconds, (found,) = timed(lambda: scored(task, entries, sides[:1]))
    result: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "images": given.images,
        "variants": given.variants,
        "classes": k,
        "seconds": round(seconds, 1),
        "ms_a_variant": round(1000 * seconds / given.variants, 2),
    }
    each = seconds / given.variants
    result |= compared(task, texts, found, each, given.sample)
    seconds, _ = timed(lambda: scored(task, entries, sides))
    result["seconds_with_corrected_priors_of_five_folds_besides"] = round(seconds, 1)
    if given.whole:
        seconds, _ = timed(lambda: play(task, entries, baseline=0))
        result["seconds_of_the_whole_tournament"] = round(seconds, 1)
    result["load_after"] = os.getloadavg()[0]
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    print(json.dumps(result, indent=1))
    if given.variants >= 10_000:
        RESULT.write_text(json.dumps(before | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
