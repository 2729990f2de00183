"""A plain character-level RNN, beside lstm_austen and gpt_austen at equal parameters.

    python -m experiments.rnn_austen

Expected: 1.26 nats per character on the validation chapters, where the 3-gram has 1.90 and gpt_austen 1.28; its 804,498
parameters are 1 % more than those of gpt_austen. About three minutes on two cores.
"""

import dataclasses

from experiments import gpt_austen
from research.launch.launcher import launch
from research.models.recurrent import Recurrent
from research.train.optimizers import Optimizer

CONFIG = dataclasses.replace(
    gpt_austen.CONFIG,
    model=Recurrent("rnn", depth=2, width=480, embedding=128),
    optimizer=Optimizer("adamw", learning_rate=2e-3, b2=0.99, weight_decay=0.1, clip=1.0),
)
EXPECTED = {"validation.loss": (1.2, 1.35)}

if __name__ == "__main__":
    launch(CONFIG)
