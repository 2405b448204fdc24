"""Validation on a fixed set of held-out sequences. It reads the engine and the data and changes neither."""

from __future__ import annotations

from lumina.data import Loader
from lumina.engine.api import Engine, MicroBatch
from lumina.train.recorder import perplexity


def evaluate(engine: Engine, validation: Loader, sequences: int, batch_size: int) -> dict[str, float]:
    """Mean loss (nats per token), perplexity and accuracy over the first `sequences` held-out sequences.

    With Mixture-of-Depths, `val_loss` samples as generation does (by the causal predictor) and `val_loss_topk` uses
    the training-time top-k choice beside it.
    """
    loss = topk = correct = 0.0
    tokens = done = 0
    while done < sequences:
        batch = validation.batch(done, min(batch_size, sequences - done))
        stats = engine.eval_step(MicroBatch(batch.tokens, batch.labels, batch.documents))
        loss, topk = loss + stats.loss_sum, topk + stats.loss_topk_sum
        correct, tokens = correct + stats.correct, tokens + stats.tokens
        done += len(batch.tokens)
    if tokens == 0:
        return {}
    return {
        "val_loss": loss / tokens,
        "val_perplexity": perplexity(loss / tokens),
        "val_accuracy": correct / tokens,
        "val_loss_topk": topk / tokens,
    }
