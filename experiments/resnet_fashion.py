"""A small ResNet names pieces of clothing: Fashion-MNIST, all 60,000 pictures, at most 15 minutes on two CPU cores.

    python -m experiments.resnet_fashion
    python -m experiments.resnet_fashion --data.dataset fashion_mnist/mini --steps 500    (needs no download)

Expected: 91.6 % of the test images classified correctly after seven epochs. The full set comes from
Debian's package dataset-fashion-mnist, or is downloaded.
"""

from research.data.vision.augmentation import Augmentation
from research.data.vision.images import ImageData
from research.evaluate.classification import ClassificationEvaluator
from research.launch.launcher import launch
from research.models.resnet import ResNet
from research.tasks.classification import Classification
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=ImageData("fashion_mnist/full", validation_fraction=0.05),
    model=ResNet("cifar", stages=(1, 1, 1), width=16),
    task=Classification(label_smoothing=0.05, augmentation=Augmentation(crop=2, flip=True)),
    optimizer=Optimizer("momentum", learning_rate=0.1, l2=5e-4),
    schedule=Schedule("linear", warmup=300, final=0.0),
    evaluators=(ClassificationEvaluator(), ClassificationEvaluator(split="test")),
    steps=6200,
    batch_size=64,
    log_every=50,
    evaluate_every=3100,
    checkpoint_every=775,
)
EXPECTED = {"test.accuracy": (0.91, 0.95)}

if __name__ == "__main__":
    launch(CONFIG)
