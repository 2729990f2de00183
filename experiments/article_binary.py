"""The articles' binary classifier, 100-64-1, tells two Gaussian clouds of standard deviation 0.1 and 0.2 apart.

    python -m experiments.article_binary

BCE with logits, SGD at 0.01, 100 epochs of 200 points in batches of 10; some seconds on two cores. The clouds' centres,
which the articles leave open, are 0 and 0.1 along each of the 100 features.
"""

from research.data.synthetic import CloudData
from research.evaluate.binary import BinaryEvaluator
from research.launch.launcher import launch
from research.models.mlp import MLP
from research.tasks.binary_classification import BinaryClassification
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=CloudData(examples=100, features=100, stds=(0.1, 0.2), centres=(0.0, 0.1)),
    model=MLP(hidden=(64,)),
    task=BinaryClassification(),
    optimizer=Optimizer("sgd", learning_rate=0.01),
    schedule=Schedule("constant"),
    evaluators=(BinaryEvaluator(),),
    steps=2000,
    batch_size=10,
    log_every=100,
    evaluate_every=500,
    checkpoint_every=1000,
)
EXPECTED = {"validation.accuracy": (0.95, 1.0)}

if __name__ == "__main__":
    launch(CONFIG)
