"""Evaluation of a language model: every next token. Loss, perplexity, bits per character, accuracy; beside n-grams.

`LanguageEvaluator` is what an experiment names; `language_metrics` measures, `language_baselines` is what to beat.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns, fit_ngrams, ngram_probabilities, token_baseline
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, cross_entropy, ratio
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class LanguageEvaluator(EvaluatedSplit):
    """Every next token that counts of a split of text."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            if data.tokens:
                train, tokens = data.tokens["train"], data.tokens[self.split]
                return language_baselines(train, tokens, data.outputs, data.characters_per_token[self.split])
            # Conversations, of which only the answers count: no run of tokens to count n-grams in.
            return token_baseline(*columns(data, self.split, "targets"), data.outputs)

        metrics = language_metrics(data.characters_per_token.get(self.split))
        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def language_metrics(characters_per_token: float | None) -> tuple[Metric, ...]:
    """Loss in nats per token, perplexity, bits per character and token accuracy of a language model.

    Reads predictions["logits"] [batch length vocabulary], batch["targets"] and batch["mask"] [batch length].

    Args:
        characters_per_token: characters of the evaluated split divided by its tokens; 1 for character tokens. Without
            it there are no bits per character.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, counted = predictions["logits"], batch["mask"] > 0
        return {
            "count": jnp.sum(counted),
            "nats": jnp.sum(cross_entropy(logits, batch["targets"]), where=counted),
            "hits": jnp.sum(jnp.argmax(logits, -1) == batch["targets"], where=counted),
        }

    def compute(state: Tree) -> Results:
        return {
            **language_results(ratio(state["nats"], state["count"], np.nan), characters_per_token),
            "accuracy": float(ratio(state["hits"], state["count"], np.nan)),
        }

    bits = ("bits_per_character",) if characters_per_token is not None else ()
    return (Metric(("loss", "perplexity", *bits, "accuracy"), measure, compute),)


def language_results(nats_per_token: float | np.ndarray, characters_per_token: float | None) -> Results:
    """Loss, perplexity and, of tokens whose length is known, bits per character: one number in three units."""
    with np.errstate(over="ignore"):
        results = {"loss": float(nats_per_token), "perplexity": float(np.exp(nats_per_token))}
    if characters_per_token is None:
        return results
    return {**results, "bits_per_character": float(nats_per_token / characters_per_token / np.log(2))}


def language_baselines(
    train_tokens: Integer[np.ndarray, " length"],
    tokens: Integer[np.ndarray, " evaluated"],
    vocabulary: int,
    characters_per_token: float,
    order: int = 3,
) -> Table:
    """Results of the 1-gram to `order`-gram models on `tokens`, with the names of `language_metrics`."""
    model = fit_ngrams(train_tokens, order, vocabulary)
    table = {}
    for length in range(1, order + 1):
        probability = ngram_probabilities(model[:length], tokens, vocabulary)
        table[f"{length}-gram"] = language_results(-np.log(probability).mean(), characters_per_token)
    return table
