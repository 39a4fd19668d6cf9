"""XLabModel: a decoder with its objective, optimiser and schedule, as Lightning trains it.

Letters: B rows, T positions, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from xlab import checkpoints, factories
from xlab.data.packing import IGNORED, Batch
from xlab.data.ranks import data_ranks
from xlab.errors import CheckpointError, ConfigError, DataError
from xlab.interop import huggingface
from xlab.interop.published import PublishedModel
from xlab.training.allocator import keep_freed_memory
from xlab.training.averaging import refuse_without_average
from xlab.training.compiling import TrainingPass
from xlab.training.layouts import local
from xlab.training.learning_rates import is_logged
from xlab.training.metrics import TokenMetrics
from xlab.training.moments import gather_moments, take_up
from xlab.training.objectives import NextToken, Objective
from xlab.training.optimizers import base_rate, decay_groups, hold_still, scale_rates
from xlab.training.optimizers_average import callbacks_of
from xlab.training.run_length import RunLength
from xlab.training.schedules import Cosine, Schedule
from xlab.training.sharding import Sharding, shard
from xlab.training.spikes import StepFigures, accepted, gradient_norm
from xlab.training.step_sums import StepSums
from xlab.transformer.attention import Attention, MultiHeadAttention
from xlab.transformer.block import Block, PreNormBlock
from xlab.transformer.feed_forward import FeedForward, SwiGLU
from xlab.transformer.footprint import refuse_beyond_memory
from xlab.transformer.initialisations import GPT2Initialisation, Initialisation
from xlab.transformer.kv_cache import KVCache
from xlab.transformer.lora import LoRA
from xlab.transformer.mixture_of_experts import mixtures, take_routing
from xlab.transformer.norms import Norm, RMSNorm
from xlab.transformer.positions import Position, RotaryPosition
from xlab.transformer.values import ValueMix

_NO_START = {"init_from": None, "pretrained": None, "config": None}


class XLabModel(LightningModule):
    """A transformer language model and how it is trained."""

    def __init__(
        self,
        vocab_size: int,
        max_len: int = 256,
        d_model: int = 256,
        n_layers: int = 4,
        n_heads: int = 4,
        d_ff: int | None = None,
        dropout: float = 0.0,
        tie_embeddings: bool = True,
        attention: Callable[[int, int, int], Attention] = MultiHeadAttention,
        norm: Callable[[int], Norm] = RMSNorm,
        feed_forward: Callable[[int, int | None], FeedForward] = SwiGLU,
        position: Callable[[int, int, int], Position] = RotaryPosition,
        block: Callable[[Attention, FeedForward, Callable[[], Norm], float], Block] = PreNormBlock,
        value_mix: Callable[[int, int, int, int, int], ValueMix] | None = None,
        embedding_norm: Callable[[int], Norm] | None = None,
        embedding_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_cap: float | None = None,
        initialisation: Callable[[], Initialisation] = GPT2Initialisation,
        objective: Callable[[], Objective] = NextToken,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer] = torch.optim.AdamW,
        schedule: Callable[[int], Schedule] = Cosine,
        init_from: str | None = None,
        pretrained: str | None = None,
        config: str | None = None,
        lora: Callable[[], LoRA] | None = None,
        freeze: list[str] | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        """Compose the model. Its settings are plain data: a part is a class path, or class_path with init_args.

        Args:
            vocab_size: number of token ids.
            max_len: longest context, in tokens.
            d_model: width of the residual stream.
            n_layers: number of blocks.
            n_heads: attention heads; a divisor of d_model.
            d_ff: inner width of the feed-forwards; left out, each kind takes its own usual multiple of d_model.
            dropout: share of activations dropped in training, in [0, 1).
            tie_embeddings: whether the vocabulary projection shares the token embedding's weights.
            attention: MultiHeadAttention, GroupedQueryAttention, MultiQueryAttention; made with (d_model, n_heads,
                layer index).
            norm: RMSNorm, LayerNorm; made with (d_model).
            feed_forward: SwiGLU, GEGLU, GELUFeedForward, ReLUFeedForward, ReLUSquaredFeedForward, MixtureOfExperts;
                made with (d_model, d_ff).
            position: RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition; made with (d_model,
                n_heads, max_len).
            block: PreNormBlock, PostNormBlock, BranchNormBlock, SandwichNormBlock, ParallelBlock,
                EmbeddingShortcutBlock; made with (attention, feed_forward, norm factory, dropout).
            value_mix: ValueEmbeddings, ValueResidual; made with (vocab_size, d_model, n_kv_heads, head_dim, n_layers).
            embedding_norm: a norm of the embeddings, as ``norm``.
            embedding_scale: what embeddings are multiplied by.
            logit_scale: what final states are multiplied by before they meet the vocabulary.
            logit_cap: soft cap of the logits.
            initialisation: GPT2Initialisation, ZeroOutputInitialisation, MuPInitialisation.
            objective: NextToken.
            optimizer: AdamW, or another of torch.optim; xlab.training.muon.MuonAdamW;
                xlab.training.schedule_free.ScheduleFreeAdamW. Weight decay touches matrices only.
            schedule: Cosine, CosineWithRestarts, Linear, Polynomial, Constant, InverseSquareRoot, WarmupStableDecay;
                made with the run's number of optimiser steps.
            init_from: an XLab checkpoint whose weights a new run starts from.
            pretrained: a published model (a folder, or a name on the hub) whose weights a new run starts from.
            config: a published configuration (a config.json, or where one is) that a new model is made of.
            lora: LoRA, to train low-rank corrections of chosen projections and nothing else.
            freeze: patterns of the names of parameters to hold still, such as ["embedding*", "blocks.0.*"].
            learning_rates: patterns of names to factors of the learning rate, such as {"embedding*": 0.1}.

        Raises:
            ConfigError: if the numbers do not fit together, a part is no plain data, or a pattern matches nothing.
            CheckpointError: if init_from cannot be read or does not fit.
        """
        super().__init__()
        self.save_hyperparameters()  # under LightningCLI the configuration itself, in Python the arguments
        settings = factories.plain(dict(self.hparams), "model")
        self._set_hparams(settings)
        refuse_beyond_memory(settings, checkpoints.build_decoder)
        self.decoder = checkpoints.build_decoder(settings)
        self.objective: Objective = factories.build(settings["objective"])
        self.training_pass = TrainingPass(self.decoder, self.objective)
        self.metrics = TokenMetrics()
        self._chat_template: str | None = None  # of the model that it starts from, handed on to its checkpoints
        if init_from is not None:
            start = checkpoints.read(init_from)
            checkpoints.fill(self.decoder, start)
            self._chat_template = start.info.get("chat_template")
        for option, source in (("pretrained", pretrained), ("config", config)):
            if source is not None:
                huggingface.refuse_others(settings, source, option)
        if pretrained is not None:
            huggingface.fill(self.decoder, pretrained)
            self._chat_template = PublishedModel(pretrained).chat_template
        if settings["lora"] is not None:
            factories.build(settings["lora"]).adapt(self.decoder)
        hold_still(self, settings["freeze"] or [])
        self._groups()  # says which pattern of learning_rates matches nothing
        self._mixtures = mixtures(self.decoder)
        self.sharding: Sharding | None = None  # of the weights over ranks, where a strategy asks for it
        self.step_sums = StepSums()  # of the optimiser step being accumulated
        self._gradient_norm: Tensor  # of the step's gradients, before clipping: a scalar
        self._resumed: list[dict[str, Any]] | None = None  # what on_save_checkpoint kept, until the first batch

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str, map_location: Any = "cpu", **changes: Any
    ) -> "XLabModel":
        """Rebuild a model from a ``.ckpt``, a ``.pt`` or a run folder; nothing in the file is run.

        Args:
            checkpoint_path: a local path.
            map_location: the device to put the model on.
            changes: settings of the model to override.

        Raises:
            CheckpointError: if the file cannot be read, or its weights do not fit.
        """
        checkpoint = checkpoints.merged(checkpoints.read(checkpoint_path, map_location=map_location))
        try:
            with torch.random.fork_rng():  # the initial weights are replaced at once: no draw is used up
                model = cls(**{**checkpoint.model, **_NO_START, **changes})
        except Exception as error:  # a class of the wrong kind, or with wrong arguments, fails in its own way
            raise CheckpointError(f"{checkpoint.path}: its settings build no model: {error}") from error
        checkpoints.fill(model.decoder, checkpoint)
        return model.to(map_location) if map_location is not None else model

    def configure_model(self) -> None:
        """Shard the weights, if the trainer's strategy has a mesh of ranks to lay them on.

        Raises:
            ConfigError: naming what cannot be sharded.
        """
        if self.device_mesh is not None and self.sharding is None:
            self.sharding = shard(self, self.trainer, self.device_mesh)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return self.decoder.vocab_size

    @property
    def max_len(self) -> int:
        """The longest context, in tokens."""
        return self.decoder.max_len

    def forward(self, ids: Tensor, cache: KVCache | None = None, documents: Tensor | None = None) -> Tensor:
        """Give the logits of the next token at every position: (B, T) ids to (B, T, V); see ``Decoder.hidden``."""
        logits: Tensor = self.decoder(ids, cache, documents)
        return logits

    def make_cache(self, batch_size: int, max_len: int | None = None) -> KVCache:
        """Give an empty KV cache that ``forward`` can be driven with; see ``Decoder.make_cache``."""
        return self.decoder.make_cache(batch_size, max_len)

    def generate(self, ids: Tensor, max_new_tokens: int = 50, **settings: Any) -> Tensor:
        """Continue a prompt.

        Args:
            ids: (T,) token ids.
            max_new_tokens: how many to add at most.
            settings: as for ``xlab.inference.sample``.

        Returns:
            (T',) the new token ids.
        """
        from xlab import inference

        return inference.sample(self, ids, max_new_tokens, self.max_len, **settings)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give a micro-batch's share of the step's loss, scaled for a mean over all of the step's tokens.

        The number of tokens in the whole step is not known yet, so the sum is divided by a nominal count, max_len,
        here, and the gradients are corrected in ``on_before_optimizer_step``.
        """
        loss = self.training_pass(batch)
        tokens = (batch["targets"] != IGNORED).sum()
        routing = take_routing(self._mixtures)
        self.step_sums.add(loss, tokens, routing)
        # What experts add is a mean over the micro-batch, so it counts once for each predicted token: the step's is the
        # mean of its micro-batches' by their tokens. Balance is a product of two means, and what it would be over the
        # whole step cannot be told from its parts.
        return (loss if routing is None else loss + tokens * routing.loss) / self.max_len

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the gradients of nominal means into those of the mean over the step's tokens, on all ranks."""
        loss, tokens, *routing = self.step_sums.take(self.trainer)
        _, data_size = data_ranks(self.trainer)
        # Lightning divided by the accumulation, DDP and FSDP by the ranks that share the data
        divided = self.max_len * self.trainer.accumulate_grad_batches * data_size
        gradients = self._gradients()
        torch._foreach_mul_(gradients, divided / max(tokens, 1.0))
        self._gradient_norm = gradient_norm(gradients) if self.sharding is None else self.sharding.gradient_norm(self)
        figures = StepFigures(self.trainer.global_step, loss / max(tokens, 1.0), float(self._gradient_norm))
        if not accepted(self.trainer, figures):
            self.zero_grad()  # an optimiser leaves a parameter without a gradient as it is, and its state, too
        if math.isfinite(figures.loss):
            self.log("train/loss", figures.loss, prog_bar=True)
        if is_logged(self.trainer) and math.isfinite(figures.gradient_norm):
            self.log("train/gradient_norm", figures.gradient_norm)
        for name, figure in zip(("balance_loss", "dropped_tokens"), routing, strict=False):
            self.log(f"train/{name}", figure / max(tokens, 1.0))
        self.log("lr", base_rate(optimizer.param_groups[0]))

    def _gradients(self) -> list[Tensor]:
        """What this rank holds of the gradients, to be changed in place."""
        if self.sharding is not None:
            self.sharding.add_up(self)
        return [local(parameter.grad) for parameter in self.parameters() if parameter.grad is not None]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer was told."""
        by_value = str(gradient_clip_algorithm or "norm").endswith("value")
        if (gradient_clip_val or 0) > 0 and str(self.trainer.precision) != "16-mixed" and not by_value:
            if self.sharding is not None:
                self.sharding.clip(self, float(gradient_clip_val or 0), self._gradient_norm)
                return
            # the norm is known already; and Lightning refuses fused optimisers under any mixed precision, for the sake
            # of fp16's loss scaling
            nn.utils.clip_grads_with_norm_(self.parameters(), float(gradient_clip_val or 0), self._gradient_norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch)

    def _measure(self, batch: Batch) -> None:
        logits = self(batch["inputs"], documents=batch.get("documents"))
        self.metrics.update(logits, batch["targets"], batch["n_bytes"])

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        # compute() has added the ranks' sums: averaging equal figures changes nothing
        figures = {f"{split}/{name}": value for name, value in self.metrics.compute().items()}
        if math.isnan(figures[f"{split}/loss"]):
            raise DataError(
                f"the {split} batches hold no token to predict; raise trainer.limit_{split}_batches or data.seq_len, "
                "or let all count: data.meta.in_loss, data.chat.prompt_in_loss"
            )
        self.log_dict({name: value for name, value in figures.items() if not math.isnan(value)}, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[int]:
        """Continue one document's beginning: ``prompt`` (1, T) and ``max_new_tokens`` (1,)."""
        new = self.generate(batch["prompt"][0], int(batch["max_new_tokens"][0]), eos_class=int(batch["eos_id"][0]))
        ids: list[int] = new.tolist()
        return ids

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser, and its schedule per optimiser step over the run's length."""
        total_steps = self.trainer.estimated_stepping_batches
        if math.isinf(total_steps):
            raise ConfigError("the run has no end that a schedule could plan for; set trainer.max_steps or max_epochs")
        try:
            optimizer: Optimizer = factories.build(self.hparams["optimizer"], self._groups())
        except ConfigError:  # in words of ours, which name the setting
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model.optimizer: {error}") from error
        scale_rates(optimizer)
        schedule: Schedule = factories.build(self.hparams["schedule"], RunLength.of(self.trainer))

        def factor(step: int) -> float:  # a plain function: LambdaLR would save, and restore, an object's total_steps
            return schedule(step)

        scheduler = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        own = dict(self.decoder.named_parameters())

        def widening(name: str, parameter: nn.Parameter) -> float:
            if own.get(name) is not parameter:  # an objective may have some of its own
                return 1.0
            return self.decoder.initialisation.learning_rate_factor(name, parameter, self.decoder)

        return decay_groups(self, widening=widening, learning_rates=self.hparams["learning_rates"])

    def on_fit_start(self) -> None:
        """Let gradients and activations find their memory from step to step."""
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_start(self) -> None:
        """Begin a resumed run at its own schedule's rate: the checkpoint's optimiser brought that of the run it was.

        And let dropout draw differently on each rank: all were seeded alike, for the same initial weights.
        """
        rank, _ = data_ranks(self.trainer)
        if rank:
            torch.manual_seed(torch.initial_seed() + rank)
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, LambdaLR):  # a subclass's own: its state is as it was restored
                continue
            rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, (base, factor) in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = base * factor(scheduler.last_epoch)

    def configure_callbacks(self) -> list[Callback]:
        """Bring along what the optimiser needs beside the training loop."""
        optimizer = self.hparams["optimizer"]
        kind = factories.find_class(optimizer["class_path"] if isinstance(optimizer, dict) else optimizer)
        return [*callbacks_of(kind)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where the run was; the first batch goes on from there."""
        refuse_without_average(self.trainer, checkpoint)
        self._resumed = checkpoint.get("moments")
        self._chat_template = checkpoint["xlab"]["info"].get("chat_template")
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and self.trainer.state.fn == "fit":
            data.count_as_here(checkpoint)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take up dropout's draws, and a step that was being accumulated, where the checkpoint was taken."""
        if self._resumed is None:
            return
        moments, self._resumed = self._resumed, None
        take_up(moments, self, self.step_sums, self.sharding)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the header that makes the file complete in itself."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise ConfigError(
                "a checkpoint needs the tokenizer of a datamodule; train with datamodule=XLabDataModule(...)"
            )
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        info = {
            "step": self.trainer.global_step,
            "metrics": logged,
            "precision": str(self.trainer.precision),
            "gradient_clip_val": self.trainer.gradient_clip_val,
            "gradient_clip_algorithm": self.trainer.gradient_clip_algorithm,
            "compiled": self.training_pass.is_compiled,
            "limit_val_batches": self.trainer.limit_val_batches,
            "data_fingerprint": data.fingerprint,
            "torch_version": str(torch.__version__),  # its own kind of text could not be read back
        }
        chat = getattr(data, "chat", None)
        template = self._chat_template if chat is None else chat.template
        if template is not None:
            info["chat_template"] = template
        checkpoint["moments"] = gather_moments(self, self.step_sums, self.sharding)
        # the tokenizer itself goes along: how it was come by need not be had where it is used
        settings = {name: value for name, value in data.hparams.items() if name != "tokenizer"}
        checkpoint["xlab"] = checkpoints.header(
            model={**self.hparams, **_NO_START}, data=settings, tokenizer=data.tokenizer.to_json(), info=info
        )
