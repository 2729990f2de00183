"""Ontogeny: the whole life of a large model in pure JAX functions. What a notebook needs, in one screen."""

import os

# XLA's CPU backend warns in hundreds of words of tuning flags whenever it loads a program that it cached itself. The
# variable is read when jaxlib is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.core.streams import stream
from research.data.cleaning.cleaning import Cleaning
from research.data.pipeline import evaluation_batches, training_batches
from research.data.tables import TableData
from research.data.text.labelled_text import LabelledText
from research.data.text.paired_text import PairedText
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.data.vision.augmentation import Augmentation
from research.data.vision.images import ImageData
from research.decoding.loop import make_generate
from research.decoding.sampling import Sampling
from research.evaluate.binary import BinaryEvaluator
from research.evaluate.classification import ClassificationEvaluator
from research.evaluate.language import LanguageEvaluator
from research.evaluate.masked import MaskedEvaluator
from research.evaluate.regression import RegressionEvaluator
from research.evaluate.translation import TranslationEvaluator
from research.hub.pretrained import load_pretrained, save_pretrained
from research.launch.notebook import train
from research.models.bert import BERT
from research.models.change_layer import change_layer
from research.models.flops import layer_table
from research.models.gpt import GPT
from research.models.llama import Llama
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.models.transformer import Transformer
from research.models.wrappers.lora import LoRA
from research.report.html import write_report
from research.tasks.binary_classification import BinaryClassification
from research.tasks.classification import Classification
from research.tasks.language_modelling import LanguageModelling
from research.tasks.masked_language_modelling import MaskedLanguageModelling
from research.tasks.regression import Regression
from research.tasks.sequence_to_sequence import SequenceToSequence
from research.tasks.task import Context
from research.tasks.text_classification import TextClassification
from research.train.experiment import Experiment, assemble
from research.train.optimizer_groups import OptimizerGroup, OptimizerGroups
from research.train.optimizers import Optimizer, OptimizerConfig
from research.train.predictions import predict_answers, predict_inputs
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.recorded_run import load_run
from research.train.schedules import Schedule

__all__ = [
    "BERT",
    "GPT",
    "MLP",
    "Augmentation",
    "BinaryClassification",
    "BinaryEvaluator",
    "Classification",
    "ClassificationEvaluator",
    "Cleaning",
    "Context",
    "Experiment",
    "ImageData",
    "LabelledText",
    "LanguageEvaluator",
    "LanguageModelling",
    "Llama",
    "LoRA",
    "MaskedEvaluator",
    "MaskedLanguageModelling",
    "MeshConfig",
    "Optimizer",
    "OptimizerConfig",
    "OptimizerGroup",
    "OptimizerGroups",
    "PairedText",
    "PretrainedModel",
    "PretrainedTokenizer",
    "Regression",
    "RegressionEvaluator",
    "ResNet",
    "Sampling",
    "Schedule",
    "SequenceToSequence",
    "TableData",
    "TextClassification",
    "TextData",
    "TokenizerConfig",
    "Transformer",
    "TranslationEvaluator",
    "UserError",
    "assemble",
    "change_layer",
    "evaluation_batches",
    "layer_table",
    "load_pretrained",
    "load_run",
    "make_generate",
    "predict_answers",
    "predict_inputs",
    "save_pretrained",
    "stream",
    "train",
    "training_batches",
    "write_report",
]
