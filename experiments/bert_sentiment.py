"""A small BERT, pretrained here, learns whether the sentiment of a sentence is positive.

    python -m experiments.bert_pretrain      # once: its newest finished run is where this one starts
    python -m experiments.bert_sentiment

Expected: 76 % of the test sentences, fewer than the 79 % of the same network from scratch (`bert_two_labels`) and of
TF-IDF with logistic regression: six novels of 1811 to 1818 teach too little, and a vocabulary without "movie". Much
text teaches more: 89 % for a MiniLM (`minilm_sentiment`). Three to five minutes on two cores. Your own table takes
`--data.train my.csv --data.text review --data.label stars --data.kind classes`.
"""

from research.data.text.labelled_text import LabelledText
from research.evaluate.classification import ClassificationEvaluator
from research.launch.launcher import launch
from research.tasks.text_classification import TextClassification
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.schedules import Schedule

SOURCE = "runs/bert_pretrain"
CONFIG = Experiment(
    data=LabelledText(
        dataset="sentences", kind="threshold", margin=0.5, length=128, tokenizer=PretrainedTokenizer(SOURCE)
    ),
    model=PretrainedModel(SOURCE, head="sequence", pooling="mean", pooler=False),
    task=TextClassification(),
    optimizer=Optimizer("adamw", learning_rate=5e-4, weight_decay=0.01, clip=1.0),
    schedule=Schedule("linear", warmup=50, final=0.0),
    evaluators=(ClassificationEvaluator(split="validation"), ClassificationEvaluator(split="test")),
    steps=600,
    batch_size=16,
    evaluate_every=150,
    checkpoint_every=150,
)
EXPECTED = {"test.accuracy": (0.73, 0.8)}

if __name__ == "__main__":
    launch(CONFIG)
