"""`recsys verify`, `predict` and `serve`: they need numpy, xxhash and one runtime (onnxruntime or torch), no training
stack; serve needs fastapi and uvicorn too.
"""

import json
import os
import sys
from argparse import Namespace
from dataclasses import fields

from recsys.files import followed, whole
from recsys.serving.bundle import Bundle
from recsys.serving.limits import Limits
from recsys.serving.rows import predict_file
from recsys.serving.runtimes import RUNTIMES

__all__ = ["predict", "serve", "verify"]


def verify(given: Namespace) -> int:
    """Verify a bundle, and print what was checked."""
    from recsys.serving.verify import verify

    print(json.dumps(verify(given.bundle, tuple(RUNTIMES) if given.runtime == "all" else (given.runtime,)), indent=1))
    return 0


def predict(given: Namespace) -> int:
    """Score the rows of a file or of standard input."""
    bundle = Bundle.load(given.bundle, given.runtime)
    if given.out is None:
        predict_file(bundle, given.rows, sys.stdout)
        return 0
    with whole(followed(given.out)) as file:
        predict_file(bundle, given.rows, file)
    return 0


def serve(given: Namespace) -> int:
    """Serve a bundle until the process is told to stop."""
    from recsys.serving.server import serve

    limits = Limits(**{f.name: getattr(given, f.name) for f in fields(Limits)})
    token = os.environ.get("RECSYS_TOKEN")
    serve(given.bundle, given.host, given.port, given.runtime, limits=limits, token=token, anyone=given.anyone)
    return 0
