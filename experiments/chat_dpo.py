r"""Preference tuning (Rafailov et al. 2023, section 6.1): the model of `chat_sft` learns to write kindly, by LoRA.

    python -m experiments.chat_sft           # once: its newest finished run is where this one starts
    python -m experiments.chat_dpo

Of two sentences written for the same question the one that people rated higher is preferred, by a point or more.
Expected: in 69 of 100 held-out pairs the better sentence gained more than the other one, where the model it started
from has 50; five to eleven minutes on two cores. Then:

    python -m research.generate runs/chat_dpo $'Write for tweets:\n' --stop $'\n'

Your own preferences take their place: `--data.train preferences.jsonl`, with `prompt`, `chosen` and `rejected` in each
line, or a table of rated answers as for `chat_sft` with `--data.score stars`.
"""

import dataclasses

from experiments import chat_sft
from research.evaluate.preference import PreferenceEvaluator
from research.launch.launcher import launch
from research.models.wrappers.lora import LoRA
from research.tasks.direct_preference import DirectPreference
from research.train.optimizers import Optimizer
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.schedules import Schedule

SOURCE = "runs/chat_sft"
CONFIG = dataclasses.replace(
    chat_sft.CONFIG,
    data=dataclasses.replace(
        chat_sft.CONFIG.data, preferences=True, score="score", margin=1.0, tokenizer=PretrainedTokenizer(SOURCE)
    ),
    model=PretrainedModel(SOURCE, lora=LoRA(rank=8)),
    task=DirectPreference(beta=0.1),
    optimizer=Optimizer("adamw", learning_rate=1e-3, clip=1.0),
    schedule=Schedule("linear", warmup=20, final=0.0),
    evaluators=(PreferenceEvaluator(split="validation", batch_size=32),),
    steps=400,
    evaluate_every=100,
    checkpoint_every=100,
    sample_every=0,
)
EXPECTED = {"validation.accuracy": (0.66, 0.73)}

if __name__ == "__main__":
    launch(CONFIG)
