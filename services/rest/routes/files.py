"""/v1/files: conversations uploaded for training, and the steps of jobs as files."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from services.rest import results
from services.rest.bodies import Deleted, FileObject, Page
from services.rest.file_store import StoredFile, file_id
from services.rest.paging import page
from services.rest.problems import Problem, invalid
from services.rest.service import Caller, Parts, Service, turnloom_of
from services.rest.uploads import Received, receive, too_large
from services.rest.views import TERMINAL

ROUTER = APIRouter(tags=["files"])
ROOM = 1 << 16  #: bytes of a body beside its file
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}


@ROUTER.post("/files", openapi_extra=UPLOAD)
async def create_file(request: Request, parts: Parts) -> FileObject:
    """Upload a JSONL file of conversations; it is there only when all of it is good."""
    turnloom = turnloom_of(request)
    caller = await run_sync(turnloom.caller)
    if not caller.scopes & {"submit", "admin"}:
        raise Problem(
            403, f"Token {caller.name!r} may not upload; it needs the scope submit.", code="insufficient_permissions"
        )
    limit = parts.settings.max_file_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + ROOM:
        raise too_large(limit)
    key = request.headers.get("idempotency-key", "")
    final = file_id(caller.name, key)
    written = file_id(caller.name) if key else final  # a repeated key must not write over the file that it made
    received = await receive(
        request.stream(), request.headers.get("content-type", ""), parts.files, caller.name, written, limit
    )
    return await run_sync(_keep, parts, caller.name, final, written, received)


def _keep(parts: Service, owner: str, final: str, written: str, received: Received) -> FileObject:
    """Make an upload visible, if it is valid."""
    try:
        file = _judged(owner, final, received)
        if final != written:
            return _object(_repeated(parts, file, written))
        parts.files.put(file)
    except Exception:
        parts.files.drop(owner, written)
        raise
    return _object(file)


def _judged(owner: str, identity: str, received: Received) -> StoredFile:
    fields = dict(received.fields)
    purpose = fields.pop("purpose", "")
    if purpose != "fine-tune":
        raise invalid("purpose", f"is {purpose!r}; send fine-tune." if purpose else "is missing; send fine-tune.")
    created = int(time.time())
    expires = _expiry(fields, created)
    if fields:
        raise invalid(next(iter(fields)), "is not a field of an upload; send file, purpose and expires_after.")
    if received.mistake is not None:
        sentence = f"{received.mistake.message} {received.mistake.hint}".strip()
        raise Problem(400, sentence, param="file", code="invalid_file")
    return StoredFile(
        id=identity,
        owner=owner,
        filename=received.filename,
        purpose=purpose,
        bytes=received.bytes,
        sha256=received.sha256,
        created_at=created,
        expires_at=expires,
    )


def _expiry(fields: dict[str, str], created: int) -> int | None:
    anchor = fields.pop("expires_after[anchor]", "")
    seconds = fields.pop("expires_after[seconds]", "")
    if not anchor and not seconds:
        return None
    if anchor != "created_at" or not seconds.isdecimal() or not 3600 <= int(seconds) <= 2_592_000:
        raise invalid("expires_after", "needs the anchor created_at and seconds from 3600 to 2592000.")
    return created + int(seconds)


def _repeated(parts: Service, file: StoredFile, written: str) -> StoredFile:
    """Return the file that an Idempotency-Key made, or make it: a key may only repeat the same file."""
    known = parts.files.put_once(file, written)
    if (known.sha256, known.filename) != (file.sha256, file.filename):
        sentence = "Idempotency-Key: was used before with another file; use a new key for a new file."
        raise Problem(400, sentence, code="idempotency_key_in_use")
    return known


@ROUTER.get("/files")
def list_files(
    parts: Parts,
    turnloom: Caller,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileObject]:
    """List uploaded files by time; purpose=fine-tune-results lists the results of jobs instead."""
    caller = turnloom.caller()
    if purpose == "fine-tune-results":
        jobs = (job for job in turnloom.jobs({}) if job.state in TERMINAL and job.progress.step)
        found = (results.results_object(turnloom, job) for job in jobs)
        return page(found if order == "desc" else reversed(list(found)), after, limit)
    if purpose not in (None, "", "fine-tune"):
        return Page[FileObject](data=[])
    files = sorted(parts.files.all_of(caller), key=lambda file: (file.created_at, file.id), reverse=order == "desc")
    return page(map(_object, files), after, limit)


@ROUTER.get("/files/{file}")
def get_file(file: str, parts: Parts, turnloom: Caller) -> FileObject:
    """Return what is known of a file."""
    if results.is_results(file):
        return results.results_object(turnloom, results.job_of(turnloom, file))
    return _object(parts.files.get(file, turnloom.caller()))


@ROUTER.get("/files/{file}/content", response_class=StreamingResponse)
def get_content(file: str, parts: Parts, turnloom: Caller) -> StreamingResponse:
    """Return the bytes of a file, as they came."""
    if results.is_results(file):
        job = results.job_of(turnloom, file)
        return StreamingResponse(results.results_csv(turnloom.series(job.id)), media_type="text/csv")
    found = parts.files.get(file, turnloom.caller())
    headers = {"Content-Length": str(found.bytes)}
    return StreamingResponse(parts.files.chunks(found), media_type="application/octet-stream", headers=headers)


@ROUTER.delete("/files/{file}")
def delete_file(file: str, parts: Parts, turnloom: Caller) -> Deleted:
    """Remove an uploaded file; datasets that were made of it stay, as jobs need them."""
    if results.is_results(file):
        results.job_of(turnloom, file)
        raise Problem(400, f"{file} is written from the job's steps and can't be deleted; delete the model instead.")
    caller = turnloom.caller()
    parts.files.delete(parts.files.get(file, caller), caller)
    return Deleted(id=file, object="file")


def _object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose="fine-tune",
    )
