"""A folder or DICOMDIR of DICOM files to samples: nested studies, files of any name.

A file is known by its content and read without its pixels, by the allow-list of `Tags`. What is
left out is counted in the notes; they never hold an id, a name, a date or a path.
"""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import MediaStorageDirectoryStorage

from embedstore.errors import ImageError, ManifestError
from embedstore.images.decode import SUFFIXES
from embedstore.images.dicom_tags import Tags, guarded, is_dicom, tags
from embedstore.manifest import Manifest
from embedstore.places import files_below, is_remote
from embedstore.types import Sample

LABELS = ("manufacturer", "model")
"""Labels every archive has: what made an image is the first shortcut to look for."""

_PICTURES = SUFFIXES - {".dcm", ".dicom"}
Image = tuple[Sample, Tags]
Kind = tuple[str, str]  # of one file, of several
NOT_DICOM: Kind = ("not DICOM", "not DICOM")
UNREADABLE: Kind = ("not readable", "not readable")
DAMAGED: Kind = ("damaged DICOM file", "damaged DICOM files")
NO_IMAGE: Kind = ("DICOM file without rows and columns", "DICOM files without rows and columns")
OTHER: Kind = ("other DICOM object", "other DICOM objects")
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("Media Storage Directory", ("DICOMDIR", "DICOMDIRs")),
    (" SR ", ("structured report", "structured reports")),
    ("Key Object", ("key object selection", "key object selections")),
    ("Presentation State", ("presentation state", "presentation states")),
    ("Encapsulated", ("encapsulated document", "encapsulated documents")),
    ("Waveform", ("waveform", "waveforms")),
    ("Segmentation", ("segmentation", "segmentations")),
    ("RT ", ("radiotherapy object", "radiotherapy objects")),
    ("Radiation", ("radiotherapy object", "radiotherapy objects")),
    ("Raw Data", ("raw data file", "raw data files")),
)
"""Part of a SOP class's name (PS3.6 table A-1) to what such objects are called; first match."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Samples by patient, study, side and view; the tags of each; what deserves a word."""

    samples: tuple[Sample, ...]
    tags: tuple[Tags, ...]
    notes: tuple[str, ...] = ()
    root: Path = Path()

    @property
    def frames(self) -> dict[Path, int]:
        """How many frames each file has, for `frames.expand`."""
        return {s.path: t.frames for s, t in zip(self.samples, self.tags, strict=True)}

    def manifest(self, classes: bool = False) -> Manifest:
        """Give the samples as they are, labelled with what made them.

        With `classes` also with the folder of the root that each is in, as "class".

        Raises
        ------
        ManifestError
            The folders are as good as one a patient: not classes, but perhaps names.
        """
        if not classes:
            return Manifest(self.samples, {}, LABELS, self.notes)
        inner = [s.path.relative_to(self.root).parts for s in self.samples]
        folders, patients = {p[0] for p in inner if len(p) > 1}, {s.group for s in self.samples}
        if len(folders) > max(2, len(patients) // 2):
            raise ManifestError(
                f"{len(folders)} folders of {len(patients)} patients are no classes, and may be "
                f"named after them; label the images by --join TABLE"
            )
        samples = tuple(
            replace(s, labels={**s.labels, "class": parts[0] if len(parts) > 1 else ""})
            for s, parts in zip(self.samples, inner, strict=True)
        )
        return Manifest(samples, {}, (*LABELS, "class"), self.notes)


def holds_dicom(source: Path) -> bool:
    """Say whether a file, or any file below a folder, is DICOM, by content; stops at the first.

    Files called .png and the like are not opened: a folder of a million pictures is no archive.
    """
    files = [source] if source.is_file() else _files(source, [])
    return any(_is_dicom(path) for path in files if path.suffix.lower() not in _PICTURES)


def read_archive(
    source: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Archive:
    """Read the tags of every DICOM image in a folder or named by a DICOMDIR.

    Hidden files are not looked at, links are followed and no folder is entered twice. The id of a
    sample is its SOPInstanceUID, or where it has none its path from `source`; of several files of
    one UID the first by path is taken. Where a view of a study is there both "for processing" and
    "for presentation" (Presentation Intent Type, PS3.3 C.8.11.1), the latter is taken.

    Parameters
    ----------
    source
        A folder, or a DICOMDIR (PS3.10 8.6).
    on_progress
        Called with files read and files in all.

    Raises
    ------
    ManifestError
        There is no DICOM image, or `source` is neither folder nor DICOMDIR.
    """
    closed: list[Path] = []
    notes: list[str] = []
    if source.is_dir():
        root, paths = source, list(_files(source, closed))
    else:
        root, paths = source.parent, _named_by_dicomdir(source, notes)
    if closed:
        notes.append(f"{_n(len(closed), 'folder')} left out: cannot be opened")
    found, left = _images(root, paths, on_progress)
    if not found:
        raise ManifestError(f"{source}: {_nothing(left, notes)}")
    if left:
        notes.append(f"{_n(left.total(), 'file')} left out: {_listed(left)}")
    kept = prefer_presentation(_distinct(found, notes), notes)
    kept.sort(key=lambda image: _place(image[0]))
    _note_gaps([found for _, found in kept], notes)
    return Archive(tuple(s for s, _ in kept), tuple(t for _, t in kept), tuple(notes), root)


def _files(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """Regular files below, in a fixed order; folders that cannot be opened go to `closed`."""
    if is_remote(folder):
        below = (file for file in files_below(folder) if not _is_hidden(file))
        yield from sorted(folder / file for file in below)
        return
    pending, entered = [folder], set()
    while pending:
        here = pending.pop()
        try:
            status, names = here.stat(), sorted(os.listdir(here))
        except OSError:
            closed.append(here)
            continue
        place = (status.st_dev, status.st_ino)
        if place not in entered:
            entered.add(place)
            inner = [here / name for name in names if not name.startswith(".")]
            yield from (path for path in inner if os.path.isfile(path))
            pending += [path for path in reversed(inner) if os.path.isdir(path)]


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def _named_by_dicomdir(source: Path, notes: list[str]) -> list[Path]:
    """List the files that the records of a DICOMDIR reference (PS3.3 F.3).

    Read record by record: pydicom's FileSet stops at the first record out of place, and copies
    the file it references.
    """
    try:
        if tags(source).sop_class != MediaStorageDirectoryStorage:
            raise ManifestError(f"{source}: not a DICOMDIR; give the folder the DICOM files are in")
        with guarded(), source.open("rb") as file:
            records = dcmread(file, force=True).get("DirectoryRecordSequence") or []
            ids = [record.get("ReferencedFileID") for record in records]
    except ImageError as error:
        raise ManifestError(
            f"{source}: neither a folder nor a DICOMDIR ({error.reason}); give a folder of DICOM "
            f"files, unpacked"
        ) from error
    named = dict.fromkeys(tuple([i] if isinstance(i, str) else i) for i in ids if i)
    paths = [path for parts in named if (path := _referenced(source.parent, parts))]
    if missing := len(named) - len(paths):
        notes.append(f"{_n(missing, 'file')} left out: named by the DICOMDIR, but not there")
    return paths


def _referenced(root: Path, parts: tuple[str, ...]) -> Path | None:
    """Find a referenced file; copies of a CD often have its names in lower case."""
    if any(part in {"", ".", ".."} or "/" in part or Path(part).anchor for part in parts):
        return None  # a DICOMDIR has no business outside its folder
    asked = (root.joinpath(*parts), root.joinpath(*(part.lower() for part in parts)))
    return next((path for path in asked if path.is_file()), None)


def _images(
    root: Path, paths: list[Path], on_progress: Callable[[int, int], None]
) -> tuple[list[Image], Counter[Kind]]:
    """One after the other: parsing is Python, and `guarded` is not for threads."""
    found, left = [], Counter[Kind]()
    for done, path in enumerate(paths, 1):
        look = _look(path)
        if isinstance(look, Tags):
            found.append((_sample(root, path, look), look))
        else:
            left[look] += 1
        on_progress(done, len(paths))
    return found, left


def _look(path: Path) -> Tags | Kind:
    """Tags of an image, or what the file is instead."""
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                return NOT_DICOM
        found = tags(path)
    except OSError:
        return UNREADABLE
    except ImageError as error:
        return UNREADABLE if error.stage == "read" else DAMAGED
    return _kind(found) or found


def _class_name(found: Tags) -> str:
    """Name of the SOP class; "" for a private one, or none."""
    return UID_dictionary.get(found.sop_class, ("",))[0]


def _kind(found: Tags) -> Kind | None:
    """Say what is no image, None for an image; classes not in PS3.6 are judged by their size."""
    name = _class_name(found)
    kind = next((kind for part, kind in _KINDS if part in name), None)
    if kind or (name and "Image Storage" not in name):
        return kind or OTHER
    if found.rows and found.columns:
        return None
    return DAMAGED if name else NO_IMAGE


def _sample(root: Path, path: Path, found: Tags) -> Sample:
    return Sample(
        id=found.sop_uid or Sample("", path.relative_to(root)).shown_path,
        path=path,
        group=found.patient_id,
        exam=found.study_uid,
        view=found.view,
        laterality=found.laterality,
        labels=dict(zip(LABELS, (found.manufacturer, found.model), strict=True)),
    )


def _place(sample: Sample) -> tuple[str, ...]:
    return (sample.group, sample.exam, sample.laterality, sample.view, sample.path.as_posix())


def _distinct(images: list[Image], notes: list[str]) -> list[Image]:
    """Take the first file of each id."""
    first: dict[str, Image] = {}
    same = other = 0
    for sample, found in images:
        taken, _ = first.setdefault(sample.id, (sample, found))
        if taken is not sample:
            alike = _alike(taken.path, sample.path)
            same, other = same + alike, other + (not alike)
    if same:
        notes.append(f"{_n(same, 'copy', 'copies')} of the same image left out")
    if other:
        notes.append(
            f"{_n(other, 'file')} left out: same UID as a file with other content, which is taken"
        )
    return list(first.values())


def _alike(one: Path, other: Path) -> bool:
    if is_remote(one):
        return one.read_bytes() == other.read_bytes()
    return filecmp.cmp(one, other, shallow=False)


def prefer_presentation(images: list[Image], notes: list[str]) -> list[Image]:
    """Leave out what is there "for presentation" too; a note counts what is, and what is raw."""
    shown = {_pair(t) for _, t in images if _intent(t) == "FOR PRESENTATION"} - {None}
    raw = [(s, t) for s, t in images if _intent(t) == "FOR PROCESSING"]
    twice = {s.id for s, t in raw if _pair(t) in shown}
    what = "'for processing' image"
    if twice:
        same = "the same view is there 'for presentation'"
        notes.append(f"{_n(len(twice), what)} left out: {same}")
    if single := len(raw) - len(twice):
        notes.append(f"{_n(single, what)} kept: raw detector values")
    return [(s, t) for s, t in images if s.id not in twice]


def _intent(found: Tags) -> str:
    """Read "FOR PROCESSING" or "FOR PRESENTATION" off the tag, or off the SOP class's name."""
    return (found.presentation_intent or _class_name(found).partition(" - ")[2]).upper()


def _pair(found: Tags) -> tuple[str, ...] | None:
    """Gather what two forms of one image agree in; None where a part of it is not known.

    The kind of image is a part: a tomosynthesis does not stand for a mammogram.
    """
    known = (found.study_uid, found.laterality, found.view)
    kind = _class_name(found).partition(" - ")[0]
    return (found.patient_id, kind, *known) if all(known) else None


def _note_gaps(kept: list[Tags], notes: list[str]) -> None:
    if unnamed := sum(not t.patient_id for t in kept):
        images = _n(unnamed, "image names", "images name")
        notes.append(f"{images} no patient: only those of one study are kept together")
    if alien := sum(t.modality != "MG" for t in kept):
        notes.append(f"{_n(alien, 'image')} of another modality than MG: kept")


def _nothing(left: Counter[Kind], notes: Iterable[str]) -> str:
    found = f"among {_n(left.total(), 'file')} ({_listed(left)})" if left else "and no other file"
    more = "".join(f"; {note}" for note in notes)
    return f"no DICOM image {found}{more}; give the folder or DICOMDIR of an archive"


def _listed(left: Counter[Kind]) -> str:
    most = sorted(left.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(_n(n, *kind) for kind, n in most)


def _n(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"
