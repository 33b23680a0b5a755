"""An archive as a hospital hands it over: nested studies, odd files, and people's data in all.

Every identifying attribute has a value of its own that is found nowhere else, so that a test can
look for it in what embedstore writes.
"""

from __future__ import annotations

import gc
import io
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet

ROOT = "1.2.826.0.1.3680043.8.498.7"
SHAPE = (64, 48)
VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
MG = uid.DigitalMammographyXRayImageStorageForPresentation
MG_RAW = uid.DigitalMammographyXRayImageStorageForProcessing
OTHERS = {
    uid.MammographyCADSRStorage: "SR",
    uid.XRayRadiationDoseSRStorage: "SR",
    uid.GrayscaleSoftcopyPresentationStateStorage: "PR",
    uid.EncapsulatedPDFStorage: "DOC",
}
SECRET = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientAddress",
    "OtherPatientIDs",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "ReferringPhysicianName",
    "OperatorsName",
    "RequestedProcedureDescription",
    "DeviceSerialNumber",
    "DetectorID",
)
"""What identifies a person, a place, a device or an object."""


@dataclass
class Archive:
    """The folder, and the data sets written to it, by path from it."""

    folder: Path
    written: dict[str, Dataset] = field(default_factory=dict)

    def add(self, name: str, ds: Dataset) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID") or f"{ROOT}.0"
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.save_as(path, enforce_file_format=True)
        self.written[name] = ds
        return path

    def secrets(self) -> set[str]:
        """All identifying values in the files, as text."""
        return {str(ds[k].value) for ds in self.written.values() for k in SECRET if ds.get(k)}


def breast(seed: int, side: str, frames: int = 0) -> np.ndarray[Any, Any]:
    """Draw a bright half ellipse: (64, 48) or (frames, 64, 48) uint16 of 12 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    x = x if side == "L" else SHAPE[1] - 1 - x
    inside = (x / (0.6 * SHAPE[1])) ** 2 + ((y - SHAPE[0] / 2) / (0.42 * SHAPE[0])) ** 2 < 1
    noise = rng.normal(2500, 200, (max(frames, 1), *SHAPE))
    film = np.where(inside, noise, 40).clip(0, 4095).astype(np.uint16)
    return film if frames else film[0]


def instance(patient: int, study: int, number: int, sop_class: str, modality: str) -> Dataset:
    """Describe an instance; patients, studies and instances are numbered through the archive."""
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = uid.UID(sop_class), modality
    ds.PatientName = f"Quetzal{patient:03d}^Xochitl{patient:03d}"
    ds.PatientID = f"00PAT{patient:04d}"
    ds.PatientBirthDate = f"19{40 + patient % 60:02d}0{1 + patient % 9}17"
    ds.PatientAddress = f"Calle Falsa {patient:03d}"
    ds.OtherPatientIDs = f"OTHERID{patient:04d}"
    ds.PatientSex = "F"
    ds.AccessionNumber = f"00ACC{study:05d}"
    ds.StudyID = f"SID{study:05d}"
    ds.StudyDate = f"2019{1 + study % 12:02d}{1 + study % 28:02d}"
    ds.StudyTime = f"0915{study % 60:02d}.77"
    ds.StudyDescription = "screening"
    ds.StudyInstanceUID = f"{ROOT}.1.{study}"
    ds.SeriesInstanceUID = f"{ROOT}.2.{study}.{sum(modality.encode())}"
    ds.SOPInstanceUID = f"{ROOT}.3.{study}.{number}"
    ds.FrameOfReferenceUID = f"{ROOT}.4.{study}"
    ds.SeriesNumber, ds.InstanceNumber = sum(modality.encode()), number
    ds.InstitutionName = "Hospital Inventado"
    ds.InstitutionAddress = "Avenida Imaginaria 12345"
    ds.StationName = "SALAMASTO9"
    ds.ReferringPhysicianName = f"Remitente{study:03d}^Doctora"
    ds.OperatorsName = f"Tecnica{study:03d}^Operadora"
    ds.RequestedProcedureDescription = f"pedido {study:05d}"
    ds.Manufacturer = ("Alpha Imaging", "Beta Systems")[patient % 2]
    ds.ManufacturerModelName = ("A-100", "B 200")[patient % 2]
    ds.DeviceSerialNumber = f"SERIAL{patient % 2}77"
    ds.DetectorID = f"DETECTOR{patient % 2}55"
    return ds


def image(
    patient: int, study: int, number: int, side: str, view: str, frames: int = 0, raw: bool = False
) -> Dataset:
    """Describe a mammogram; with `frames` a tomosynthesis."""
    sop_class = MG_RAW if raw else uid.BreastTomosynthesisImageStorage if frames else MG
    ds = instance(patient, study, number, sop_class, "MG")
    ds.PresentationIntentType = "FOR PROCESSING" if raw else "FOR PRESENTATION"
    ds.ImageLaterality, ds.ViewPosition = side, view
    pixels = breast(1000 * study + number, side, frames)
    ds.Rows, ds.Columns = SHAPE
    if frames:
        ds.NumberOfFrames = frames
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def other(patient: int, study: int, number: int, sop_class: str) -> Dataset:
    """Describe a report, a presentation state or a document."""
    ds = instance(patient, study, number, sop_class, OTHERS[uid.UID(sop_class)])
    if ds.Modality == "DOC":
        ds.EncapsulatedDocument = b"%PDF-1.4\n"
        ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    return ds


def studies(archive: Archive, patients: int, each: int = 1) -> None:
    """Write four views a study: patients and studies numbered from 0, files without extension."""
    for study in range(patients * each):
        patient = study // each
        for number, (side, view) in enumerate(VIEWS):
            archive.add(
                f"P{patient:03d}/S{study:03d}/IM{number:04d}",
                image(patient, study, number, side, view),
            )


def hospital(folder: Path) -> Archive:
    """Write an archive with some of everything.

    Patient 0 has two studies of four views, patient 1 one. Patient 2 has two views both ways and
    one for processing only; patient 3 a tomosynthesis of 9 frames beside a raw mammogram of that
    view; one study names no patient. One file is cut within its pixels, one within its header.
    """
    archive = Archive(folder)
    for study, patient in ((0, 0), (1, 0), (2, 1)):
        for number, (side, view) in enumerate(VIEWS):
            name = f"A/patient{patient}/study{study}/{'IM' if number else 'deep/er/IM'}{number:04d}"
            archive.add(name, image(patient, study, number, side, view))
    for number, (side, view) in enumerate(VIEWS[:2]):
        archive.add(f"B/raw{number}.dcm", image(2, 3, number, side, view, raw=True))
        archive.add(f"B/shown{number}.dcm", image(2, 3, 10 + number, side, view))
    archive.add("B/only.DCM", image(2, 3, 20, "R", "CC", raw=True))
    archive.add("B/tomo", image(3, 4, 0, "L", "CC", frames=9))
    archive.add("B/beside", image(3, 4, 1, "L", "CC", raw=True))
    nameless = image(4, 5, 0, "L", "CC")
    del nameless.PatientID
    archive.add("nobody", nameless)
    for number, sop_class in enumerate(OTHERS):
        archive.add(f"B/other/{number}", other(2, 3, 30 + number, sop_class))
    (folder / "A" / "README.txt").write_text("see the study folders\n")
    (folder / "A" / "empty").touch()
    (folder / "A" / ".DS_Store").write_bytes(bytes(200))
    cut = archive.add("C/cut", image(5, 6, 0, "R", "MLO"))
    cut.write_bytes(cut.read_bytes()[:-1000])
    header = archive.add("C/header", image(5, 6, 1, "R", "CC"))
    data = header.read_bytes()
    header.write_bytes(data[: data.index(b"Alpha" if b"Alpha" in data else b"Beta") + 3])
    shutil.copy(folder / "A/patient0/study0/IM0001", folder / "C/copy")
    return archive


def dicomdir(source: Path, to: Path) -> Path:
    """Let pydicom make a file set of the folder's whole images; return its DICOMDIR."""
    made = FileSet()
    for path in files(source):
        made.add(path)
    made.write(to)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom's folder for staging
        del made
        gc.collect()
    return to / "DICOMDIR"


def in_set(dicomdir: Path) -> set[Path]:
    """Return the files that pydicom finds in a file set, as the DICOMDIR names them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as above
        found = {Path(i.path).relative_to(dicomdir.parent) for i in FileSet(dicomdir)}
        gc.collect()
    return found


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def image_bytes() -> bytes:
    """Write one mammogram of a patient that is in no archive."""
    ds = image(99, 99, 0, "L", "CC")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
