"""The articles' first network, 2-10-1 with ReLU, fits the sum of its inputs: MSE falls to a few thousandths.

    python -m experiments.article_regression

Adam at 1e-3, 1000 epochs of 100 examples in batches of 50; two seconds on two cores.
"""

from research.data.synthetic import LineData
from research.evaluate.regression import RegressionEvaluator
from research.launch.launcher import launch
from research.models.mlp import MLP
from research.tasks.regression import Regression
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=LineData(examples=100, features=2),
    model=MLP(hidden=(10,)),
    task=Regression(),
    optimizer=Optimizer("adam", learning_rate=1e-3),
    schedule=Schedule("constant"),
    evaluators=(RegressionEvaluator(split="train"), RegressionEvaluator()),
    steps=2000,
    batch_size=50,
    log_every=100,
    evaluate_every=500,
    checkpoint_every=1000,
)
EXPECTED = {"train.loss": (0.001, 0.009)}

if __name__ == "__main__":
    launch(CONFIG)
