"""Quality of retrieval as a number: by label, and between texts and images."""

from embedstore.retrieval.labels import Judged, RetrievalReport, judge
from embedstore.retrieval.scores import Against, compare
from embedstore.retrieval.task import Asked, Task, pose

__all__ = ["Against", "Asked", "Judged", "RetrievalReport", "Task", "compare", "judge", "pose"]
