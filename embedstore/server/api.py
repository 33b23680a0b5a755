"""The API: what may be asked, and by which path."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from embedstore.server import schemas
from embedstore.server.service import Service

_WHY = {
    400: "What is asked cannot be answered.",
    401: "No token, or a wrong one.",
    403: "Another host name, or another page's request.",
    404: "There is no such image or probe.",
    411: "The request does not say how long it is.",
    413: "The request is too large.",
    422: "The request is not of this form.",
    503: "The store or the model cannot be used now, or too many wait.",
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": why} for status, why in _WHY.items()
}
_FILE = {
    "requestBody": {
        "required": True,
        "description": "The image file: PNG, JPEG, TIFF, PGM or DICOM.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "The picture."}
}

router = APIRouter(prefix="/api", responses=_PROBLEMS)


def service_of(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]
Sample = Annotated[str, Query(alias="id", max_length=1000)]
Backbone = Annotated[str, Query(max_length=200)]


@router.post("/session", status_code=204)
def session(service: TheService) -> Response:
    """Turn the token in the header into a cookie that no script can read."""
    settings = service.settings
    response = Response(status_code=204)
    response.set_cookie(settings.cookie, settings.token, httponly=True, samesite="strict", path="/")
    return response


@router.get("/store")
def about(service: TheService) -> schemas.StoreInfo:
    """Say what is served: backbones, columns, probes."""
    return service.about()


@router.post("/search")
async def search(service: TheService, asked: schemas.Search) -> schemas.Answer:
    """Find the cases most like images of the store, or like sentences."""
    return await service.search(asked)


@router.post("/upload/search", openapi_extra=_FILE)
async def search_upload(
    request: Request, service: TheService, asked: Annotated[schemas.SearchByUpload, Query()]
) -> schemas.Answer:
    """Find the cases most like an image file; it is not kept."""
    return await service.search_upload(request, asked)


@router.get("/sample")
def sample(service: TheService, name: Sample, backbone: Backbone = "") -> schemas.Sample:
    """Say all that is known of one image."""
    return service.sample(name, backbone)


@router.get("/picture", response_class=Response, responses=_PNG)
def picture(service: TheService, name: Sample, backbone: Backbone = "") -> Response:
    """Return one image as the model saw it."""
    made = service.picture(name, backbone)
    return Response(made, media_type="image/png", headers={"cache-control": "private, max-age=300"})


@router.get("/map")
def the_map(
    service: TheService, backbone: Backbone = "", label: Annotated[str, Query(max_length=200)] = ""
) -> schemas.Map:
    """Return the images as points of the plane; ask again while it is worked at."""
    return service.map(backbone, label)


@router.post("/predict")
def predict(service: TheService, asked: schemas.Predict) -> schemas.Prediction:
    """Apply a probe to an image of the store."""
    return service.predict(asked)


@router.post("/upload/predict", openapi_extra=_FILE)
async def predict_upload(
    request: Request, service: TheService, asked: Annotated[schemas.PredictUpload, Query()]
) -> schemas.Prediction:
    """Apply a probe to an image file; it is not kept."""
    return await service.predict_upload(request, asked)


@router.post("/divide")
async def divide(service: TheService, asked: schemas.Divide) -> schemas.Division:
    """Divide the store by two sentences."""
    return await service.divide(asked)
