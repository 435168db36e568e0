"""How each job answers a signal until it installs an answer of its own: the table of docs/signals.md."""

from __future__ import annotations

from collections.abc import Sequence

from core.run.signals import GRACE_S, EndAtOnce

RUN = "the same command continues the run"
WORK = "the same command continues the work"
STARTS_OVER = "nothing of it is kept, and the same command starts over"
STAGE_GRACE_S = 40.0  # longer than the demo waits for the job that it is at

BEFORE_STEPS = "ending before the first step"
TRAINING = ("train", "train-autoencoder")
CONTINUES = {"shard": WORK, "encode": WORK, "sample": WORK, "evaluate": "the same command scores again"}
CONTINUES |= {"sweep": "the same command continues the sweep"}
CONTINUES |= {"demo": "the same command goes on with this stage"}
ONLY_LOOKS = {"--dry-run", "--help", "-h", "action=status"}


def answer_for(words: Sequence[str]) -> EndAtOnce:
    """Return the answer from the start of a command line on, until a part of the job has a better one.

    Training is safe at any moment and ends at once, since ranks may wait for one another. The others get time
    to remove what is half written.
    """
    known = {*TRAINING, *CONTINUES}
    job = next((word for word in words if word in known), "")
    if ONLY_LOOKS & set(words) or not job:
        return EndAtOnce(f"ending; {STARTS_OVER}", continues=False, grace_s=GRACE_S)
    if job in TRAINING:
        return EndAtOnce(f"{BEFORE_STEPS}; {RUN}", f"ending; {RUN}", continues=True)
    grace_s = STAGE_GRACE_S if job == "demo" else GRACE_S
    return EndAtOnce(f"ending; {CONTINUES[job]}", continues=True, grace_s=grace_s)
