"""Upload an adapter with its card to the Hugging Face hub, or to whatever HF_ENDPOINT names. Needs huggingface-hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of the library it uses
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from turnloom import errors
from turnloom.version import VERSION

LOG_IN: Final = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_name(name: str) -> str:
    """Return the name if it is a valid model name of the hub.

    Raises:
        InvalidInput: it is not OWNER/NAME.
    """
    if not _NAME.fullmatch(name):
        raise errors.InvalidInput(f"{name!r} is not the name of a model on a hub.", hint="Write OWNER/NAME.")
    return name


def push(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Upload the files of a folder as one commit and return the commit's URL.

    Args:
        folder: adapter and README.md, flat.
        name: OWNER/NAME; created if missing.
        private: visibility of a new repository; an existing one keeps its own.
        message: the commit message.

    Raises:
        Refused: the hub refused.
        ServerUnreachable: it does not answer.
    """
    hub = HfApi(library_name="turnloom", library_version=VERSION)
    try:
        hub.create_repo(name, repo_type="model", private=private, exist_ok=True)
        done = hub.upload_folder(repo_id=name, folder_path=folder, repo_type="model", commit_message=message)
    except LocalTokenNotFoundError as error:
        raise errors.NotAllowed(f"The hub at {hub.endpoint} asks who you are.", hint=LOG_IN) from error
    except RepositoryNotFoundError as error:
        raise errors.NotFound(f"The hub at {hub.endpoint} shows no model {name} to you.", hint=LOG_IN) from error
    except HfHubHTTPError as error:
        raise _refused(hub.endpoint, name, error) from error
    except (HTTPError, OSError) as error:
        said = errors.why(error).rstrip(".") or "it takes too long"
        raise errors.ServerUnreachable(
            f"The hub at {hub.endpoint} does not answer: {said}.",
            hint="Look at HF_ENDPOINT and the network.",
        ) from error
    return str(done.commit_url)


def _refused(endpoint: str, name: str, error: HfHubHTTPError) -> errors.TurnloomError:
    status = error.response.status_code if error.response is not None else 0
    said = (error.server_message or "").strip().rstrip(".")
    if status in (401, 403):
        why = f": {said}" if said else ""
        return errors.NotAllowed(f"The hub at {endpoint} does not let you write {name}{why}.", hint=LOG_IN)
    kind = errors.Unavailable if status >= 500 else errors.Refused
    return kind(
        f"The hub at {endpoint} answered {status}: {said or 'nothing'}.", hint="Try again, or look at its page."
    )
