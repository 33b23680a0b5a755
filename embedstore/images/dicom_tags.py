"""What is read of a DICOM file besides its pixels: an allow-list, read without the pixels."""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.filereader import (
    _at_pixel_data,
    _read_file_meta_info,
    read_dataset,
    read_preamble,
)
from pydicom.sr._snomed_dict import mapping as SNOMED
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from embedstore.bucket import Unreachable
from embedstore.errors import ImageError

LARGEST_INFLATED = 2**30
"""Bytes a deflated data set may unfold to; deflate packs up to 1032 to 1."""

_VRS = {vr.value.encode() for vr in VR if len(vr) == 2}
_LONGEST_FIRST = 1024  # bytes; a first element is a character set, an image type or a UID
_LONGEST_REASON = 300  # characters
_QUOTED = re.compile(r"'[^']*'|<[^>]*>" + r'|"[^"]*"')
_WORDS = {*keyword_dict, *(name for name, *_ in UID_dictionary.values())}
_WORDS |= {"gdcm", "imagecodecs", "pillow", "pydicom", "pylibjpeg"}
# CID 4014 as ViewPosition (0018,5101) names the same views: DICOM PS3.16 table CID 4014
_VIEWS = {
    codes.cid4014.CranioCaudal.value: "CC",
    codes.cid4014.MedioLateralObliqueProjection.value: "MLO",
    codes.cid4014.MedioLateralProjection.value: "ML",
    codes.cid4014.LateroMedial.value: "LM",
    codes.cid4014.LateroMedialOblique.value: "LMO",
    codes.cid4014.CaudoCranial.value: "FB",
    codes.cid4014.SuperolateralToInferomedialOblique.value: "SIO",
    codes.cid4014.CranioCaudalExaggeratedLaterally.value: "XCCL",
    codes.cid4014.CranioCaudalExaggeratedMedially.value: "XCCM",
}
_READ = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "PresentationIntentType",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
    "ViewCodeSequence",
    "SharedFunctionalGroupsSequence",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsStored",
    "PhotometricInterpretation",
]


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says of itself; "" or 0 where it says nothing. Names and dates are not read.

    Attributes
    ----------
    laterality
        "L", "R" or "B": ImageLaterality, or FrameLaterality of a multi-frame file, or Laterality.
    view
        "CC", "MLO", ...: ViewPosition, or the same abbreviation for a code of CID 4014.
    presentation_intent
        "FOR PRESENTATION" or "FOR PROCESSING".
    rows, columns
        Pixels.
    sop_class, transfer_syntax
        UIDs; a file without SOPClassUID (a DICOMDIR) has the class its file meta names.
    accession
        The accession number: the order, of one study or of several.
    """

    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    modality: str = ""
    laterality: str = ""
    view: str = ""
    manufacturer: str = ""
    model: str = ""
    presentation_intent: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 0
    bits_stored: int = 0
    photometric: str = ""
    transfer_syntax: str = ""
    accession: str = ""


def is_dicom(data: bytes) -> bool:
    """Tell a DICOM file from its first bytes (132 or more): "DICM", or a plausible data set.

    Without the preamble of PS3.10 7.1, the first element must be of group 0002 or 0008, with a
    known value representation or, where none is written, a short even length.
    """
    if data[128:132] == b"DICM":
        return True
    if len(data) < 8 or data[:2] not in {b"\2\0", b"\x08\0", b"\0\x08"}:
        return False
    length = int.from_bytes(data[4:8], "little")
    return data[4:6] in _VRS or (
        data[:2] == b"\x08\0" and length % 2 == 0 and length <= _LONGEST_FIRST
    )


def tags(source: bytes | Path) -> Tags:
    """Read the tags of a file, or of its bytes, and stop before the pixels.

    Raises
    ------
    ImageError
        At stage "read" or "decode", saying why.
    """
    with guarded():
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        except Unreachable:
            raise
        except OSError as error:
            raise ImageError("read", error.strerror or str(error)) from error
        with file:
            if not is_dicom(file.read(132)):
                raise ImageError("decode", "not a DICOM file")
            return _tags(parse(file, _READ)[0])


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever pydicom or a codec raises becomes an ImageError; what they warn of is not heard."""
    log = logging.getLogger("pydicom")
    passed_on, log.propagate = log.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - and on a damaged file they raise nearly anything
        reason = _QUOTED.sub(_harmless, " ".join(str(error).split())) or type(error).__name__
        raise ImageError("decode", reason[:_LONGEST_REASON]) from error
    finally:
        log.propagate = passed_on


def _harmless(quoted: re.Match[str]) -> str:
    """Keep of what an error quotes only names of attributes and codecs: a value may be a name."""
    text = quoted[0][1:-1]
    return quoted[0] if text in _WORDS or text.replace(" ", "") in _WORDS else "'…'"


def parse(file: BinaryIO, only: list[str] | None = None) -> tuple[Dataset, BinaryIO]:
    """Parse a file up to its pixels.

    Returns
    -------
    tuple
        The data set, which names a transfer syntax also where the file does not, and the file to
        read on in, at the header of the pixel data or at its end.
    """
    file.seek(0)
    read_preamble(file, force=True)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        body = _inflated(file)
        ds = read_dataset(
            body, False, True, stop_when=_at_pixel_data, specific_tags=_tag_list(only)
        )
        ds.file_meta = meta
        return ds, body
    file.seek(0)
    ds = dcmread(file, force=True, stop_before_pixels=True, specific_tags=_tag_list(only))
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds, file


def _tag_list(keywords: list[str] | None) -> list[BaseTag | int] | None:
    return None if keywords is None else [Tag(k) for k in keywords]


def _inflated(file: BinaryIO) -> BinaryIO:
    """Inflate the rest of a file; pydicom would do so without a limit."""
    inflate, body = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    while rest := inflate.unconsumed_tail or file.read(2**20):
        body.write(inflate.decompress(rest, 2**24))
        if body.tell() > LARGEST_INFLATED:
            raise ImageError("decode", f"deflated data of over {LARGEST_INFLATED} bytes")
    body.write(inflate.flush())
    body.seek(0)
    return body


def _tags(ds: Dataset) -> Tags:
    return Tags(
        patient_id=_text(ds, "PatientID"),
        study_uid=_text(ds, "StudyInstanceUID"),
        series_uid=_text(ds, "SeriesInstanceUID"),
        sop_uid=_text(ds, "SOPInstanceUID"),
        sop_class=_text(ds, "SOPClassUID") or _text(ds.file_meta, "MediaStorageSOPClassUID"),
        modality=_text(ds, "Modality"),
        laterality=laterality(ds),
        view=_view(ds),
        manufacturer=_text(ds, "Manufacturer"),
        model=_text(ds, "ManufacturerModelName"),
        presentation_intent=_text(ds, "PresentationIntentType"),
        rows=int(ds.get("Rows") or 0),
        columns=int(ds.get("Columns") or 0),
        frames=int(ds.get("NumberOfFrames") or ("Rows" in ds)),
        bits_stored=int(ds.get("BitsStored") or 0),
        photometric=_text(ds, "PhotometricInterpretation"),
        transfer_syntax=str(ds.file_meta.TransferSyntaxUID),
        accession=_text(ds, "AccessionNumber"),
    )


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()


def laterality(ds: Dataset) -> str:
    """Return "L", "R", "B" or "": of the image, or the frame, or the body part examined."""
    frame = Dataset()
    for groups in (ds.get("SharedFunctionalGroupsSequence") or [])[:1]:
        frame = (groups.get("FrameAnatomySequence") or [frame])[0]
    frame_laterality = _text(frame, "FrameLaterality")
    return _text(ds, "ImageLaterality") or frame_laterality or _text(ds, "Laterality")


def _view(ds: Dataset) -> str:
    code = (ds.get("ViewCodeSequence") or [Dataset()])[0]
    value, meaning = _text(code, "CodeValue"), _text(code, "CodeMeaning")
    value = SNOMED["SRT"].get(value, value)  # SNOMED RT, written until 2018, to SNOMED CT
    return _text(ds, "ViewPosition") or _VIEWS.get(value, meaning)
