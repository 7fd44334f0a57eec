"""PreprocessService: conversations in, columns of tokens and weights out. Holds no state between calls."""
# ruff: noqa: N802  # methods carry the names of their RPCs

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import grpc

from services.preprocess.api.lint_run import LintRun
from services.preprocess.api.rpc import CallType, Rpc
from services.preprocess.api.runner import Plan, Runner
from services.preprocess.api.streams import check_batch, chunks, header
from services.preprocess.domain import limits
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.models.registry import Registry
from services.preprocess.settings import ApiSettings
from services.preprocess.wire.batch import rows_of, token_batch, unchecked
from services.preprocess.wire.conversation import conversation, read_each
from services.preprocess.wire.issues import issues, refuse_bad, violation, warnings
from services.preprocess.wire.options import options
from services.preprocess.wire.preview import preview_response
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.inspect.preview import preview
from turnloom.masks.model import Model
from turnloom.models_file import ModelEntry
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1 import types_pb2
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceServicer
from turnloom.version import VERSION

NAME = "PreprocessService"
MAX_OFFENDERS = 1_000  #: that a lint lists per code


class PreprocessService(PreprocessServiceServicer):
    """Stateless: any replica answers any call."""

    def __init__(self, rpc: Rpc, registry: Registry, runner: Runner, settings: ApiSettings) -> None:
        self._rpc = rpc
        self._settings = settings
        self._registry = registry
        self._runner = runner

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        """Return versions, limits and the caller."""
        with self._rpc.unary(context, NAME, "GetServerInfo") as call:
            return pb.GetServerInfoResponse(
                version=VERSION,
                max_message_bytes=limits.MAX_MESSAGE_BYTES,
                max_batch_conversations=limits.MAX_BATCH,
                max_length_limit=limits.MAX_LENGTH,
                client_template_deadline_seconds=limits.CLIENT_TEMPLATE_SECONDS,
                max_bytes_in_work=self._settings.work_bytes,
                max_call_seconds=self._settings.call_seconds,
                max_conversation_bytes=limits.MAX_CONVERSATION_BYTES,
                caller=call.caller.name,
                scopes=sorted(call.caller.scopes),
            )

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        """Return a page of the loaded models; the page token is the last name of the previous page."""
        with self._rpc.unary(context, NAME, "ListModels"):
            size = limits.page_size(request.page_size)
            after = limits.page_position(request.page_token)
            rest = (item for item in self._registry.served() if item[0].name > after)
            page = list(islice(rest, size + 1))
            more = page[size - 1][0].name if len(page) > size else ""
            return pb.ListModelsResponse(
                models=[_model(entry, model) for entry, model in page[:size]], next_page_token=limits.page_token(more)
            )

    def Preprocess(self, request: pb.PreprocessRequest, context: grpc.ServicerContext) -> pb.PreprocessResponse:
        """Preprocess one batch, all or nothing unless skip_bad."""
        with self._rpc.unary(context, NAME, "Preprocess") as call:
            plan = self._plan(request.options)
            check_batch(len(request.conversations), "conversations")
            call.spend(len(request.conversations))
            call.notes["conversations"] = len(request.conversations)
            results = self._runner.run(plan, read_each(request.conversations), call.clock.check)
            if not request.skip_bad:
                refuse_bad("conversations", results)
            return pb.PreprocessResponse(
                batch=token_batch(rows_of(0, results)),
                issues=issues(0, request.conversations, results),
                warnings=warnings(0, results),
                date=plan.date,
                unchecked_examples=unchecked(results),
            )

    def StreamPreprocess(
        self, request_iterator: Iterator[pb.StreamPreprocessRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamPreprocessResponse]:
        """Answer each chunk in order; bad conversations become issues of their chunk."""
        with self._rpc.stream(context, CallType.BIDI_STREAM, NAME, "StreamPreprocess") as call:
            messages = self._rpc.reading(context, request_iterator)
            plan = self._plan(header(messages, "options").options)
            seen = 0
            for place, message in chunks(messages, "options"):
                sent = message.chunk.conversations
                check_batch(len(sent), place.field("conversations"))
                call.spend(len(sent))
                call.clock.restart()
                results = self._runner.run(plan, read_each(sent), call.clock.check)
                yield pb.StreamPreprocessResponse(
                    batch=token_batch(rows_of(seen, results)),
                    issues=issues(seen, sent, results),
                    warnings=warnings(seen, results),
                    date=plan.date,
                    unchecked_examples=unchecked(results),
                )
                seen += len(results)
                call.notes["conversations"] = seen

    def PreviewConversation(
        self, request: pb.PreviewConversationRequest, context: grpc.ServicerContext
    ) -> pb.PreviewConversationResponse:
        """Return one conversation, token by token."""
        with self._rpc.unary(context, NAME, "PreviewConversation") as call:
            call.spend(1)
            plan = self._plan(request.options)
            try:
                shown = preview(conversation(request.conversation), plan.options, plan.model)
            except InvalidOption:
                raise
            except PreprocessError as error:
                raise InvalidRequest([violation("conversation", error)]) from error
            return preview_response(shown, plan.date)

    def LintConversations(
        self, request_iterator: Iterator[pb.LintConversationsRequest], context: grpc.ServicerContext
    ) -> pb.LintConversationsResponse:
        """Return counts per code and the first offenders of a whole stream."""
        with self._rpc.stream(context, CallType.CLIENT_STREAM, NAME, "LintConversations") as call:
            messages = self._rpc.reading(context, request_iterator)
            asked = header(messages, "options").options
            if asked.max_offenders > MAX_OFFENDERS:
                sentence = f"is {asked.max_offenders}; give {MAX_OFFENDERS} at most."
                raise InvalidRequest([Violation("options.max_offenders", sentence)])
            plan = self._runner.plan(asked.options.model, options(asked.options, "options.options"))
            run = LintRun(plan, asked.max_offenders)
            for place, message in chunks(messages, "options"):
                sent = message.test_chunk if place.kind == "test_chunk" else message.chunk
                check_batch(len(sent.conversations), place.field("conversations"))
                call.spend(len(sent.conversations))
                call.clock.check()
                run.add(sent.conversations, "test" if place.kind == "test_chunk" else "train")
                call.notes["conversations"] = run.conversations
            return run.response()

    def _plan(self, message: types_pb2.PreprocessOptions) -> Plan:
        return self._runner.plan(message.model, options(message))


def _model(entry: ModelEntry, model: Model) -> pb.Model:
    return pb.Model(
        name=entry.name,
        source=entry.source,
        revision=entry.revision,
        template_sha256=model.template_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        vocabulary_size=model.vocab_size,
        encoder=model.encoder_name,
        tuft_model_name=entry.tuft_model,
        has_generation_blocks=model.chat_format.template.generation_blocks,
    )
