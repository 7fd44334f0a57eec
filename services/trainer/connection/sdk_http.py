"""The HTTP client that the SDK is given: httpx without what a TuFT server has no use for.

httpx merges each request with its client's own settings, keeps cookies in a jar and looks for redirects in
every answer. The transport is the SDK's own; it follows redirects.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import pyqwest
from pyqwest.httpx import AsyncPyqwestTransport

LATIN: Final = "iso-8859-1"  #: reads every header; else httpx tries encodings on all of them at every look-up


class SdkHttp(httpx.AsyncClient):
    """Sends requests as they are, over one transport."""

    def __init__(self) -> None:
        self._sdk_transport = AsyncPyqwestTransport(pyqwest.HTTPTransport())
        super().__init__(transport=self._sdk_transport, trust_env=False)

    def build_request(
        self, method: str, url: httpx.URL | str, *, timeout: Any = None, extensions: Any = None, **parts: Any
    ) -> httpx.Request:
        """Build a request of these parts alone."""
        limits = httpx.Timeout(timeout).as_dict()
        request = httpx.Request(method, url, extensions={"timeout": limits, **(extensions or {})}, **parts)
        request.headers.encoding = LATIN
        return request

    async def send(self, request: httpx.Request, *, stream: bool = False, auth: Any = None, **_: Any) -> httpx.Response:
        """Send a request, with the key that `auth` puts into it; its answer is read unless it is streamed."""
        if not isinstance(auth, httpx.Auth):
            return await self._sent(request, stream=stream)
        flow = auth.async_auth_flow(request)
        try:
            request = await anext(flow)
            while True:
                response = await self._sent(request, stream=stream)
                try:
                    request = await flow.asend(response)
                except StopAsyncIteration:
                    return response
        finally:
            await flow.aclose()

    async def _sent(self, request: httpx.Request, *, stream: bool) -> httpx.Response:
        response = await self._sdk_transport.handle_async_request(request)
        response.request, response.headers.encoding = request, LATIN
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response
