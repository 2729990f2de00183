r"""Instruction tuning: a small Llama, pretrained here, learns to write what it is asked for; only answers are learned.

    python -m experiments.chat_pretrain      # once: its newest finished run is where this one starts
    python -m experiments.chat_sft

Asked to "Write for tweets:", film reviews, product reviews or editorials, it answers with one sentence of that kind.
Expected: 4.0 nats per token of the answers in documents that training has not seen, where the frequencies of the tokens
have 6.5; five to eight minutes on two cores. Then:

    python -m research.generate runs/chat_sft $'Write for tweets:\n' --stop $'\n'

Your own conversations, or a table, take its place: `--data.train chats.jsonl`, with `messages` in each line, or
`--data.train my.csv --data.question "Translate: {en}" --data.answer "{es}" --data.group book`. A published model
starts with its own tokenizer and template: `--model.source NAME --data.tokenizer.source NAME --data.template ""`.
"""

from research.data.text.chat import ChatData
from research.evaluate.language import LanguageEvaluator
from research.launch.launcher import launch
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.schedules import Schedule

SOURCE = "runs/chat_pretrain"
# A turn a line: the marks of other templates would be many byte pairs, trivial to predict.
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
CONFIG = Experiment(
    data=ChatData(
        dataset="sentences",
        question="Write for {domain}:",
        answer="{text}",
        group=("document",),
        template=TEMPLATE,
        tokenizer=PretrainedTokenizer(SOURCE),
        length=96,
    ),
    model=PretrainedModel(SOURCE),
    task=LanguageModelling(sample_tokens=80),
    optimizer=Optimizer("muon", learning_rate=1e-3, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=30, final=0.1),
    evaluators=(LanguageEvaluator(split="validation"),),
    steps=800,
    batch_size=16,
    evaluate_every=400,
    checkpoint_every=200,
    sample_every=200,
)
EXPECTED = {"validation.loss": (3.8, 4.1)}

if __name__ == "__main__":
    launch(CONFIG)
