"""Organisations and tokens over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from adapterhub.server.dependencies import Bearer

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["accounts"], dependencies=[Depends(Bearer)])
