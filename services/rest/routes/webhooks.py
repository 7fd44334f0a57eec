"""/v1/turnloom/webhook_secret: what the caller's webhooks are signed with."""

from __future__ import annotations

from fastapi import APIRouter

from services.rest.bodies import WebhookSecret
from services.rest.notices import no_secret, secret_of
from services.rest.service import Caller, Parts

ROUTER = APIRouter(prefix="/turnloom", tags=["webhooks"])


@ROUTER.get("/webhook_secret")
def get_webhook_secret(parts: Parts, turnloom: Caller) -> WebhookSecret:
    """Return the secret by which a receiver checks webhook-signature (Standard Webhooks)."""
    caller = turnloom.caller()
    if not parts.settings.webhook_secret:
        raise no_secret()
    return WebhookSecret(secret=secret_of(parts.settings.webhook_secret, caller.name))
