"""Counters for Prometheus. With several workers they add up through the folder in `PROMETHEUS_MULTIPROC_DIR`."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

__all__ = ["BLOB_BYTES", "DOWNLOADS", "IN_FLIGHT", "PUBLISHES", "REQUESTS", "REQUEST_SECONDS", "RESOLVES", "exposition"]

REQUESTS = Counter("adapterhub_requests_total", "Requests answered", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "adapterhub_request_seconds",
    "Time from request to end of answer",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
IN_FLIGHT = Gauge("adapterhub_requests_in_flight", "Requests being answered", multiprocess_mode="livesum")
PUBLISHES = Counter("adapterhub_publishes_total", "Publish requests", ["result"])
RESOLVES = Counter("adapterhub_resolves_total", "Resolve requests", ["result"])
DOWNLOADS = Counter("adapterhub_downloads_total", "Completed downloads of weights")
BLOB_BYTES = Counter("adapterhub_blob_bytes_total", "Bytes of blobs", ["direction"])


def exposition() -> tuple[bytes, str]:
    """The current figures as (body, content type)."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
    return generate_latest(), CONTENT_TYPE_LATEST
