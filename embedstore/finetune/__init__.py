"""The other path: a backbone fine-tuned end to end, on the footing of the probes.

Data goes one way: kept pictures of a store (`batches`), changed a little (`augment`), through the
image side of a backbone and a last layer (`network`, `objectives`), step by step (`tuner`) under
PyTorch Lightning's trainer (`fit`), for each training side of a split to a report (`run`) and a
`folder`.
"""

from embedstore.finetune.fit import Hardware
from embedstore.finetune.job import Job
from embedstore.finetune.run import finetune
from embedstore.finetune.settings import RECIPES, Settings, settings_of

__all__ = ["RECIPES", "Hardware", "Job", "Settings", "finetune", "settings_of"]
