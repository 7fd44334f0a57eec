"""Every RPC has its need, every scope its reach, and a refusal says which token would do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.api.auth.scopes import NEEDS, Need, authenticate, check_scope
from services.preprocess.domain.caller import ANYBODY, Caller, Scope
from services.preprocess.domain.refusals import NotPermitted, Unauthenticated
from turnloom.v1 import datasets_pb2, preprocess_pb2, training_pb2

READ, SUBMIT, ADMIN = Scope.READ, Scope.SUBMIT, Scope.ADMIN
SCOPES = st.frozensets(st.sampled_from(Scope), min_size=1)
NAMES = st.sampled_from(["ann", "bob", "ci"])


def caller(*scopes: Scope, name: str = "ann") -> Caller:
    return Caller(name, frozenset(scopes))


def permitted(check: Callable[[], None]) -> bool:
    try:
        check()
    except NotPermitted:
        return False
    return True


def test_the_table_names_every_rpc_that_the_server_answers_and_no_other() -> None:
    served = (preprocess_pb2, datasets_pb2, training_pb2, health_pb2, reflection_pb2)
    paths = {
        f"/{service.full_name}/{method.name}"
        for module in served
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(NEEDS) == paths


def test_only_health_answers_without_a_token() -> None:
    assert {path for path, need in NEEDS.items() if need is Need.NOTHING} == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
    }


def test_a_method_that_is_not_in_the_table_is_refused_even_to_admin() -> None:
    with pytest.raises(NotPermitted, match=r"/x/Y: is not in this server's contract; call a method of turnloom\.v1"):
        check_scope(ANYBODY, "/x/Y")


@pytest.mark.parametrize("need", [need for need in Need if need is not Need.NOTHING])
@given(scopes=SCOPES)
def test_scopes_are_held_against_the_table(need: Need, scopes: frozenset[Scope]) -> None:
    method = next(path for path, one in NEEDS.items() if one is need)
    assert permitted(lambda: check_scope(Caller("ann", scopes), method)) == (
        need is not Need.WORK or bool(scopes & {SUBMIT, ADMIN})
    )


def test_a_missing_scope_is_named() -> None:
    with pytest.raises(NotPermitted) as caught:
        check_scope(caller(READ), "/turnloom.v1.FineTuningService/CreateJob")
    assert str(caught.value) == ("CreateJob: needs the scope submit, and token 'ann' has read; ask for one with it.")


@given(SCOPES, NAMES, st.one_of(NAMES, st.just("")))
def test_everybody_looks_at_their_own_and_readers_at_everything(
    scopes: frozenset[Scope], name: str, owner: str
) -> None:
    who = Caller(name, scopes)
    may = bool(scopes & {READ, ADMIN}) or owner == name
    assert permitted(lambda: who.check_look("Job 'j'", owner)) == may
    assert who.only == (None if scopes & {READ, ADMIN} else name)


@given(SCOPES, NAMES, st.one_of(NAMES, st.just("")))
def test_only_the_owner_and_admin_change_a_thing(scopes: frozenset[Scope], name: str, owner: str) -> None:
    may = ADMIN in scopes or owner == name
    assert permitted(lambda: Caller(name, scopes).check_change("Job 'j'", owner)) == may


def test_refusals_name_the_thing_and_the_token_that_would_do_but_not_whose_it_is() -> None:
    with pytest.raises(NotPermitted) as look:
        caller(SUBMIT).check_look("Job 'j'", "bob")
    assert str(look.value) == (
        "Job 'j' was made with another token; with the scope submit alone, token 'ann' sees only what it made. "
        "Use a token with the scope read."
    )
    with pytest.raises(NotPermitted) as change:
        caller(SUBMIT, READ).check_change("Job 'j'", "bob")
    assert str(change.value) == (
        "Job 'j' was made with another token; token 'ann' changes only what it made. "
        "Use the token that made it, or one with the scope admin."
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], "The call brought no token, which this server needs; set TURNLOOM_TOKEN or --token."),
        (["Bearer a", "Bearer a"], "The call brought more than one authorization; send one."),
        (["Basic a"], "The authorization is not of the form 'Bearer TOKEN'; set TURNLOOM_TOKEN or --token."),
        (["Bearer"], "The authorization is not of the form 'Bearer TOKEN'; set TURNLOOM_TOKEN or --token."),
        (
            ["Bearer " + "x" * 513],
            "The authorization is not of the form 'Bearer TOKEN'; set TURNLOOM_TOKEN or --token.",
        ),
        (
            ["Bearer b"],
            "The token is unknown here: mistyped, revoked, or of another server; ask this server's operator for one.",
        ),
    ],
)
def test_a_call_without_a_known_token_is_refused_in_one_sentence(values: list[str], sentence: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        authenticate([("authorization", value) for value in values], {"a": caller(READ)}.get)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
def test_a_known_token_is_its_caller_however_bearer_is_spelled(kind: str) -> None:
    found = authenticate([("user-agent", "x"), ("authorization", f"{kind} a")], {"a": caller(READ)}.get)
    assert found == caller(READ)
