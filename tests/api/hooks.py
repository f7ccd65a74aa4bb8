"""What schemathesis can't know: a listing that is followed has no end, and which ids lead somewhere."""

import itertools
import os

import schemathesis

calls = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path == "/v1/log" and isinstance(case.body, dict):
        case.body["follow"] = False
    name = "STAGEPOST_KEPT" if case.path.startswith("/v1/quarantine") else "STAGEPOST_EVENT"
    if case.path_parameters and "id" in case.path_parameters and next(calls) % 2:
        case.path_parameters["id"] = os.environ[name]
