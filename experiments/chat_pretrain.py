"""A small Llama learns English from Jane Austen's novels in byte pairs, to be taught to answer later.

    python -m experiments.chat_pretrain

Expected: 3.9 nats per token of the validation chapters, where the 3-gram has 4.4; about ten minutes on two cores.
`chat_sft` starts from it, and `chat_dpo` from that.
"""

from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.language import LanguageEvaluator
from research.launch.launcher import launch
from research.models.llama import Llama
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=128, tokenizer=TokenizerConfig("bpe", vocabulary_size=4096)),
    model=Llama(depth=4, width=192, heads=6, context=128, tied=True),
    task=LanguageModelling(sample_tokens=100),
    optimizer=Optimizer("muon", learning_rate=2e-3, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=50, final=0.1),
    evaluators=(LanguageEvaluator(split="validation"),),
    steps=1000,
    batch_size=16,
    evaluate_every=500,
    checkpoint_every=250,
    sample_every=500,
)
EXPECTED = {"validation.loss": (3.7, 4.1)}

if __name__ == "__main__":
    launch(CONFIG)
