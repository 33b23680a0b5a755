"""What splitting by image instead of by patient is worth: the size of the error, not a score."""

from __future__ import annotations

from embedstore.audit.findings import Finding, Section
from embedstore.audit.trials import METRICS, Measured, Question, told


def worth(question: Question, by_patient: Measured) -> Section:
    """Compare the same probe by image and by patient on the same draws of patients."""
    title = "What a leak is worth"
    if len(question.images) == len(set(question.groups.tolist())):
        text = "each image is of a patient of its own: by image and by patient are the same"
        return Section(title, (Finding("fine", text),))
    by_image = question.measured(question.tell(question.by_image()))
    return Section(title, _differences(question, by_image, by_patient))


def _differences(
    question: Question, by_image: Measured, by_patient: Measured
) -> tuple[Finding, ...]:
    out = []
    for metric, title in METRICS.items():
        found = by_image.less(by_patient, metric)
        text = (
            f"{title} by image less by patient: {told(found)}; by image {by_image.score(metric)}, "
            f"by patient {by_patient.score(metric)}"
        )
        out.append(Finding("look at" if found.low > 0 else "fine", text))
    return tuple(out)
