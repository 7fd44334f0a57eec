"""Write the contract as a page of Markdown: services, messages and enums with the comments of proto/turnloom/v1.

    python scripts/contract_docs.py OUT.md

Needs grpcio-tools. `make docs` runs it: the page is made anew for every site and never committed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[1] / "proto"
INTRODUCTION = """# The contract, turnloom.v1

Every RPC, message and field, from the comments of `proto/turnloom/v1`. Fields that are absent have proto3's default;
what that means stands beside the field.
"""
#: Numbers of fields in descriptor.proto, which paths of comments are made of.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM = 4, 5, 6, 2, 3, 4
SERVICE_METHOD = ENUM_VALUE = 2
Path_ = tuple[int, ...]


def described() -> FileDescriptorSet:
    """Return the files of the contract with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        files = [str(path) for path in sorted(PROTO.rglob("*.proto"))]
        own = Path(grpc_tools.__file__).parent / "_proto"
        arguments = [f"-I{PROTO}", f"-I{own}", "--include_source_info", f"--descriptor_set_out={out}", *files]
        if protoc.main(["protoc", *arguments]):
            raise SystemExit("protoc refused the contract")
        return FileDescriptorSet.FromString(out.read_bytes())


class Page:
    """One file's part of the page."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(one.path): " ".join(one.leading_comments.split()) for one in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Yield the part, services first."""
        for number, service in enumerate(self._file.service):
            yield from self._service(service, (FILE_SERVICE, number))
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (FILE_MESSAGE, number), "")
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (FILE_ENUM, number), "")

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield from self._heading(service.name, path)
        yield from ("| RPC | request | response | |", "|---|---|---|---|")
        for number, method in enumerate(service.method):
            asked, answered = (_plain(name) for name in (method.input_type, method.output_type))
            asked = f"stream {asked}" if method.client_streaming else asked
            answered = f"stream {answered}" if method.server_streaming else answered
            yield f"| {method.name} | {asked} | {answered} | {self._cell((*path, SERVICE_METHOD, number))} |"
        yield ""

    def _message(self, message: DescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = f"{outer}{message.name}"
        yield from self._heading(name, path)
        if message.field:
            yield from ("| field | | type | |", "|---|---|---|---|")
        for number, field in enumerate(message.field):
            kind = _kind(field, message)
            yield f"| {field.name} | {field.number} | {kind} | {self._cell((*path, MESSAGE_FIELD, number))} |"
        yield ""
        for number, inner in enumerate(message.nested_type):
            yield from self._message(inner, (*path, MESSAGE_NESTED, number), f"{name}.")
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, MESSAGE_ENUM, number), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        yield from self._heading(f"{outer}{enum.name}", path)
        yield from ("| value | | |", "|---|---|---|")
        for number, value in enumerate(enum.value):
            yield f"| {value.name} | {value.number} | {self._cell((*path, ENUM_VALUE, number))} |"
        yield ""

    def _heading(self, name: str, path: Path_) -> Iterator[str]:
        yield from (f"## {name}", "", self._comments.get(path, ""), "")

    def _cell(self, path: Path_) -> str:
        return self._comments.get(path, "").replace("|", "\\|")


def _plain(name: str) -> str:
    return name.removeprefix(".turnloom.v1.").removeprefix(".")


def _kind(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return the type of a field as the .proto file writes it."""
    entry = next((one for one in message.nested_type if field.type_name.endswith(f".{message.name}.{one.name}")), None)
    if entry is not None and entry.options.map_entry:
        key, value = (_kind(one, entry) for one in entry.field)
        return f"map of {key} to {value}"
    kind = _plain(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for file in described().file:
        parts += Page(file).lines()
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
