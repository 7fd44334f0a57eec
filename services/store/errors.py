"""Everything that can go wrong in the store, one sentence each.

StoreError
├── RedisUnavailable      Redis isn't reachable, loads, or refuses writes: try again
│   └── RedisForbids      Redis does not let our user do this
├── StoreUnavailable      the object store isn't reachable: try again
│   ├── StoreFull         the object store has no room left
│   └── StoreRefused      the object store does not take our key
├── SchemaMismatch        Redis holds another version's records
├── NotFound              no such job, dataset, checkpoint, host
├── IllegalEdge           the state refuses it
├── RequestMismatch       the request_id is known with other content
├── InUse                 can't be deleted now
├── CheckpointNotUsable   not of the effective run, or still needed
├── OutOfRange            the events asked for are gone
├── BadToken              a page token or event id that this server never gave
├── NoHost                no live host serves model and rank
├── QuotaReached          the owner has as many jobs in the queue as it may
├── Fenced                a newer attempt holds the job: the caller has to end
├── StepOutOfOrder        a step that can't come from a correct loop
├── TicketFailed          the other side of a call raised
│   └── TicketTimeout     the other side of a call didn't answer in time
└── Corrupt               a file's content isn't what its address says
"""

from __future__ import annotations


class StoreError(Exception):
    """Base class of the store's errors."""


class RedisUnavailable(StoreError):
    """Redis isn't reachable, is loading, or refuses writes; trying again may help."""


class RedisForbids(RedisUnavailable):
    """Redis does not let our user do this; an operator may mend that while we run, as an outage."""


class StoreUnavailable(StoreError):
    """The object store can't be read or written; trying again may help."""


class StoreFull(StoreUnavailable):
    """The object store has no room left."""


class StoreRefused(StoreUnavailable):
    """The object store does not take our key, or the key may not do this."""


class SchemaMismatch(StoreError):
    """Redis holds records of another version."""


class NotFound(StoreError):
    """No such job, dataset, checkpoint or host."""


class IllegalEdge(StoreError):
    """The object's state refuses this change."""


class RequestMismatch(StoreError):
    """A request_id was used again with other content."""


class InUse(StoreError):
    """Something still needs it."""


class CheckpointNotUsable(StoreError):
    """The checkpoint isn't part of the effective run, or has to stay."""


class OutOfRange(StoreError):
    """The events asked for are no longer there."""


class BadToken(StoreError):
    """A page token or event id that this server never gave."""


class NoHost(StoreError):
    """No live host serves this model and rank."""


class QuotaReached(StoreError):
    """An owner has as many jobs in the queue as it may have."""


class Fenced(StoreError):
    """Another attempt holds the job now; the caller has to end at once."""


class StepOutOfOrder(StoreError):
    """A step that a correct loop never sends."""


class TicketFailed(StoreError):
    """The worker that took the call raised an exception."""


class TicketTimeout(TicketFailed):
    """No worker answered the call in time."""


class Corrupt(StoreError):
    """Content differs from its sha256."""


#: What a script answers as the first word of a refusal.
BY_CODE: dict[str, type[StoreError]] = {
    "NOT_FOUND": NotFound,
    "ILLEGAL_EDGE": IllegalEdge,
    "REQUEST_MISMATCH": RequestMismatch,
    "IN_USE": InUse,
    "CHECKPOINT": CheckpointNotUsable,
    "QUOTA": QuotaReached,
    "FENCED": Fenced,
    "STEP_ORDER": StepOutOfOrder,
}
