"""One running Denoise op: its sampler, and what each of the sampler's requests asks of the model.

The sampler asks for a latent to be denoised; the guider (`sampling/steer.py`) asks for predictions under its
conditions, in one round or more; each is one model call per condition that counts. Calls are run by the step
loop, together with those of other ops.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backend.components import LoraUse, Weights
from backend.guiders import Guider
from backend.models.additions import Alteration, BlockPatch, Draws, SharingPatches
from backend.models.conditioning import rows_of
from backend.models.latent import LatentFormat
from backend.models.lora import Patch
from backend.patches import Downscale, FreeU, HyperTile, TokenMerging
from backend.references import OtherModel
from backend.sampling.foreign import ForeignCode, codes_of
from backend.sampling.guidance import stacked
from backend.sampling.keyframes import Frame, Track
from backend.sampling.prediction import Prediction
from backend.sampling.region import combined
from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome, Run
from backend.sampling.stages import Memory
from backend.sampling.steer import Ask, Estimate, Steering, in_force, settled, steer
from backend.types import Latent, OpKey
from backend.values import frozen
from backend.worker.batch import ModelCall, Network
from backend.worker.conditions import Condition, Sides, remaining
from backend.worker.foreign_host import RunHost, Target
from backend.worker.reuse import call_reuse, result_reuse
from backend.worker.traced import Finish

__all__ = ["Denoising", "Target", "finisher"]


@frozen(eq=False)
class _Asked:
    """An ask on its way: the conditions that count at this noise level, a call each, and what was seen."""

    ask: Ask
    x: Tensor
    conditions: tuple[Condition, ...]
    seen: dict[int, Tensor]

    def estimate(self, prediction: Prediction, sigma: Tensor, done: "Sequence[_Part]") -> Estimate:
        """From its parts, whose outputs are there."""
        parts = [(part.condition.region, part.estimate(prediction, self.x, sigma)) for part in done]
        attention = torch.stack([self.seen[row] for row in sorted(self.seen)]) if self.seen else None
        return Estimate(combined(self.x, parts), attention)


@frozen(eq=False)
class _Part:
    """One condition of an ask, its call, and the call's output once it is there.

    own: the denoised estimate, where functions of node packs evaluated the network instead.
    """

    asked: _Asked
    condition: Condition
    call: ModelCall
    output: Tensor | None = None
    own: Tensor | None = None

    @property
    def open(self) -> bool:
        """The call is still to be made."""
        return self.output is None and self.own is None

    def estimate(self, prediction: Prediction, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised latent of the condition's region of x."""
        if self.own is not None:
            return self.own
        assert self.output is not None
        return prediction.denoised(self.condition.region.crop(x), self.output, sigma)


class Denoising:
    """A run in progress. `calls`, then `answer` with their outputs, until `result` is there.

    finish: the run's outcome, in model units -> the op's outputs. total: the steps that progress counts.
    """

    def __init__(
        self,
        key: OpKey,
        run: Run,
        target: Target,
        guidance: tuple[Guider, Sides],
        total: int,
        finish: Finish,
    ) -> None:
        self.key, self.total, self.format = key, total, target.format
        self.estimate: Tensor | None = None  # of the last reported step, model units
        self.result: tuple[Latent, ...] | None = None
        self._run, self._target, self._finish = run, target, finish
        self._guider, self._sides = guidance
        self._memory = Memory()
        self._tracks: dict[tuple[Frame, ...], Track] = {}
        patches, noise = self._guider.model.patches, target.prediction.range
        self._reuse, self._results = call_reuse(patches, noise), result_reuse(patches, noise)
        self._sharing: tuple[SharingPatches, Draws] | None = None  # at the pending request
        self._memory.host = self._host = RunHost(key, target, self._sides, self._guider.model)
        self._foreign = next((code for code in codes_of(patches) if code.evaluates), None)
        self._reused = False  # the pending request's answer was made from an earlier one
        self._request: DenoiseRequest | None = None
        self._steering: Steering | None = None
        self._asked: list[_Asked] = []
        self._round: list[_Part] | None = None
        self._advance(None)

    def calls(self) -> list[ModelCall]:
        """What the pending round needs of the model: per ask, its conditions in order. It may be nothing."""
        if self._round is None:
            self._round = self._planned()
        return [part.call for part in self._round if part.open]

    def answer(self, outputs: Sequence[Tensor]) -> int | None:
        """Hand over the raw outputs of `calls`.

        Returns: the step that is thereby done, if one is.
        """
        request, made = self._pending(), iter(outputs)
        assert self._round is not None
        done = [replace(part, output=next(made)) if part.open else part for part in self._round]
        self._learn(request, self._round, done)
        estimates = []
        for asked in self._asked:
            parts = [part for part in done if part.asked is asked]
            estimates.append(asked.estimate(self._target.prediction, request.sigma, parts))
        assert self._steering is not None
        try:
            self._ask(self._steering.send(estimates))
            return None
        except StopIteration as end:
            guided = end.value
        if self._results is not None and not self._reused:
            self._results.learn(request, guided)
        if request.step is not None:
            self.estimate = guided.denoised
        self._advance(stacked(guided.denoised, guided.uncond) if request.uncond else guided.denoised)
        return request.step

    def close(self) -> None:
        """Give the run up."""
        self._run.close()

    def _planned(self) -> list[_Part]:
        """The round's parts: those that an earlier output will do for have theirs already."""
        request = self._pending()
        parts = [
            _Part(asked, condition, self._call(asked, condition, request))
            for asked in self._asked
            for condition in asked.conditions
        ]
        if self._foreign is not None:
            return [replace(part, own=self._evaluated(part, request, self._foreign)) for part in parts]
        if self._reuse is None:
            return parts
        main = [part for part in parts if not part.asked.ask.beside]
        known = self._reuse.outputs(float(request.sigma), [p.condition for p in main], [p.call for p in main])
        if known is None:
            return parts
        outputs = dict(zip(map(id, main), known, strict=True))
        return [replace(part, output=outputs.get(id(part))) for part in parts]

    def _evaluated(self, part: _Part, request: DenoiseRequest, code: ForeignCode) -> Tensor:
        """The estimate of a part as a node pack's functions evaluate the network."""
        region = part.condition.region
        self._host.alteration = part.call.alteration
        x = region.crop(part.asked.x)
        return self._host.estimate(part.condition, x, request.sigma, part.asked.ask.side, code)

    def _learn(self, request: DenoiseRequest, planned: Sequence[_Part], done: Sequence[_Part]) -> None:
        """Tell the reuse of calls what came of those that were made."""
        if self._reuse is None:
            return
        made = [part for was, part in zip(planned, done, strict=True) if was.open]
        for beside in (False, True):
            parts = [part for part in made if part.asked.ask.beside == beside]
            outputs = [part.output for part in parts if part.output is not None]
            self._reuse.learn(
                float(request.sigma), [p.condition for p in parts], [p.call for p in parts], outputs, beside
            )

    def _call(self, asked: _Asked, condition: Condition, request: DenoiseRequest) -> ModelCall:
        prediction, target, region = self._target.prediction, self._target, condition.region
        x = region.crop(asked.x)
        rows = len(x)
        time = prediction.timestep(request.sigma).reshape(1).to(target.device, torch.float32)
        placed = {name: region.crop(value) for name, value in condition.inputs.placed.items()}
        extra = {
            name: rows_of(value, rows).to(target.device)
            for name, value in (*condition.inputs.plain.items(), *placed.items())
        }
        own = condition.control_tokens
        tokens = None if own is None else rows_of(own, rows).to(target.device)
        first = condition is asked.conditions[0]
        network, patches = self._hooked(condition, request)
        return ModelCall(
            op=self.key,
            network=network,
            x=prediction.scale_input(x, request.sigma),
            timesteps=time.expand(rows),
            tokens=rows_of(condition.tokens, rows).to(target.device),
            extra=extra,
            patches=patches,
            hooked=bool(condition.hooks),
            controls=tuple(c.at(x, tokens) for c in condition.controls if c.times.counts(request.sigma)),
            mixes_lengths=target.mixes_lengths,
            alteration=Alteration(
                self._blocks(request),
                asked.ask.perturbed,
                asked.seen.__setitem__ if asked.ask.watched and first else None,
                asked.ask.without,
                self._sharing,
                guides=target.within.guides_of(x),
                prefix=target.within.prefix,
            ),
        )

    def _hooked(self, condition: Condition, request: DenoiseRequest) -> tuple[Network, tuple[Patch, ...]]:
        """The network of a condition and its LoRAs, as strong as their keyframes have them now."""
        target = self._target
        patches, uses, others = list[Patch](), list[LoraUse](), list[tuple[Weights, float]]()
        for hook in condition.hooks:
            track = self._tracks.setdefault(hook.frames, Track(hook.frames))
            strength = hook.strength * track.strength(float(request.sigma))
            if isinstance(hook.change, OtherModel):
                others.append((hook.change.denoiser, strength))
                continue
            uses.append(LoraUse(hook.change, strength))
            if hook.patch is not None:
                patches.append(replace(hook.patch, strength=strength))
        if not others or target.moved is None:
            return target.network, (*target.patches, *patches)
        return target.moved(tuple(others), tuple(uses))

    def _blocks(self, request: DenoiseRequest) -> tuple[BlockPatch, ...]:
        """The model's patches of blocks that are in force at the request's noise level."""
        noise = self._target.prediction.range
        sigma = float(request.sigma)
        return tuple(
            patch
            for patch in self._guider.model.patches
            if isinstance(patch, FreeU) or (isinstance(patch, Downscale) and in_force(patch, sigma, noise))
        )

    def _ask(self, asks: Sequence[Ask]) -> None:
        """Take up a round."""
        request, self._round = self._pending(), None
        self._asked = [
            _Asked(
                ask,
                request.x if ask.x is None else ask.x,
                _counting(self._sides[ask.side], request),
                {},
            )
            for ask in asks
        ]

    def _pending(self) -> DenoiseRequest:
        if self._request is None:
            raise RuntimeError(f"op {self.key} has ended and asks for nothing")
        return self._request

    def _advance(self, reply: Tensor | None) -> None:
        try:
            self._request = next(self._run) if reply is None else self._run.send(reply)
        except StopIteration as end:
            self._request, self._steering, self._asked, self._round = None, None, [], None
            self.result = self._finish(end.value)
            return
        shares = tuple(p for p in self._guider.model.patches if isinstance(p, HyperTile | TokenMerging))
        self._sharing = (shares, Draws(self._target.generator)) if shares else None
        answer = None if self._results is None else self._results.answer(self._request)
        self._reused = answer is not None
        if answer is not None:
            self._steering = settled(answer)
            self._ask(next(self._steering))
            return
        self._steering = steer(self._guider, self._request, self._target.prediction.range, self._memory)
        self._ask(next(self._steering))


def _counting(conditions: Sequence[Condition], request: DenoiseRequest) -> tuple[Condition, ...]:
    """Those of a side that count at a noise level, default ones where the others leave room."""
    active = [c for c in conditions if c.region.counts(request.sigma)]
    if not any(c.default for c in active):
        return tuple(active)
    others = [c for c in active if not c.default]
    room = remaining(request.x, others)
    return (*others, *(replace(c, region=room) for c in active if c.default and room is not None))


def finisher(latent: Latent, format: LatentFormat) -> Finish:
    """The end of a run over `latent`: its samples and last estimate, in LATENT's units on the CPU."""

    def finish(outcome: Outcome) -> tuple[Latent, ...]:
        ends = (outcome.samples, outcome.samples if outcome.denoised is None else outcome.denoised)
        samples, denoised = (replace(latent, samples=format.from_model(x.float()).cpu()) for x in ends)
        return samples, denoised

    return finish
