"""Order test files over processes: the longest first, and those that share something dear in one process."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadFileScheduling

#: They take the stock or the accelerated server, which start once a process, and are most of their time.
REAL_TUFT: Final = (
    "tests/integration/test_nll_matches_transformers.py",
    "tests/integration/test_adapter_in_peft.py",
    "tests/contract/test_server.py",
    "tests/contract/test_backend.py",
    "tests/contract/test_restarts.py",
    "tests/contract/test_sampling.py",
    "tests/contract/test_sampler.py",
    "tests/integration/test_sample.py",
)
#: Each compiles all of them, which a process does once.
PUBLIC_TEMPLATES: Final = ("tests/unit/masks/test_public_templates.py", "tests/unit/masks/turns/test_coverage.py")
#: A long file that began last would leave the other processes idle.
LONGEST: Final = (
    "tests/e2e/test_kill_matrix.py",
    "tests/e2e/test_random_kills.py",
    "tests/e2e/test_lost_hosts.py",
    "tests/e2e/test_kill_matrix_s3.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_notebook.py",
    "tests/e2e/test_openai_sdks.py",
    "tests/e2e/test_up.py",
    "tests/integration/test_trainer_jobs.py",
    *REAL_TUFT,
    "tests/unit/tuft/test_accelerated.py",
    "tests/integration/test_replies.py",
    "tests/integration/test_api_process.py",
    "tests/integration/test_sources_silent.py",
    "tests/integration/test_tuft_server.py",
    "tests/integration/test_store_s3.py",
    "tests/integration/test_rest_s3.py",
    *PUBLIC_TEMPLATES,
    "tests/integration/test_sources_hub.py",
    "tests/integration/test_reported_ways_in.py",
    "tests/unit/preprocess/models/test_registry.py",
    "tests/unit/embedded/test_tiny_model.py",
    "tests/unit/masks/replay/test_fast_path.py",
)


def place(nodeid: str) -> int:
    """Return the place of a test's file; files that are not long share the last one."""
    file = nodeid.partition("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


class ByFile(LoadFileScheduling):
    """A file stays in one process, and files that share something stay in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file in REAL_TUFT:
            return "the real TuFT"
        return "the public templates" if file in PUBLIC_TEMPLATES else file
