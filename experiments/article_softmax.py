"""The articles' softmax classifier, 64-64-10 with ReLU, on random inputs with random labels.

    python -m experiments.article_softmax

Adam, sparse cross entropy, 1000 examples of 100 inputs, 10 epochs in batches of 32; some seconds on two cores. Random
labels cannot be learned but by heart: the training loss falls a little below ln 10 = 2.303, and no further.
"""

from research.data.synthetic import NoiseData
from research.evaluate.classification import ClassificationEvaluator
from research.launch.launcher import launch
from research.models.mlp import MLP
from research.tasks.classification import Classification
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=NoiseData(examples=1000, features=100, classes=10),
    model=MLP(hidden=(64, 64)),
    task=Classification(),
    optimizer=Optimizer("adam", learning_rate=1e-3),
    schedule=Schedule("constant"),
    evaluators=(ClassificationEvaluator(split="train"),),
    steps=320,
    batch_size=32,
)
EXPECTED = {"train.loss": (2.1, 2.302)}

if __name__ == "__main__":
    launch(CONFIG)
