"""Names of the files that jobs leave: of runs, exports, samples and scores; imports nothing heavy.

Those of datasets are in `data.dataset.schema`.
"""

CONFIG = "config.yaml"  # the resolved config, of every job's output
LOCK = "run.lock"
FINISHED = "finished.json"  # written last
LOGS = "logs"

METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
PREVIEWED = "previews.jsonl"
PREVIEWS = "previews"  # a folder of pictures and films
EVALUATED = "evaluations.jsonl"
INCIDENTS = "incidents.jsonl"
WANDB = "wandb.json"
TENSORBOARD = "tensorboard"  # a folder of event files
INITIAL = "initial.json"  # of a run that began from the weights of another
ATTENTION = "attention.json"
MICRO_BATCHES = "micro_batches.json"  # what `engine.micro_batch=auto` chose
CHOICES = "choices.json"  # what `auto`s and defaults of the engine stand for
ZERO_STAGE = "zero_stage.json"  # of earlier versions: what `engine.zero_stage=auto` chose

CHECKPOINTS = "checkpoints"
AVERAGES = "ema"  # beside them: small copies of averages, in the same form

LATENTS = "latents.json"  # what sampling needs beside the weights
AUTOENCODER = "autoencoder"

EXPORT = "export.json"  # written last
EXPORTED_WEIGHTS = "model.safetensors"

SAMPLES = "samples.json"  # written last
SCORES = "scores.json"  # written last

RUNS = "runs"  # of a sweep: a folder with a run in each
SWEEP = "sweep.jsonl"  # its ledger
FIT = "fit.json"  # written last
