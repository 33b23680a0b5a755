"""A small image-text model in BiomedCLIP's folder format, trained on `embedstore.phantoms` alone.

For trying the program out and for tests; trained on synthetic images; not for clinical use. The
folder is `FOLDER`; ``python -m embedstore.phantomclip.train --out DIR`` makes one like it.
"""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).parent / "model"
"""The bundled model: give it to `embedstore.backbones.load_backbone` as a string."""
