"""A step-time model that learns from the engine's own steps.

    time = fixed + mixed·[prefill > 0] + prefill·p + large·max(0, p + d - knee)
           + decode·d + decode_context·Cd + prefill_context·Cp + attention·A

with every coefficient >= 0, so that no feature ever makes a step look shorter. The coefficients
are a non-negative least-squares fit of relative errors over decayed sums, kept per regime (batch
size and context in octaves) so that rare regimes are not forgotten while others run. Two factors follow
the machine's speed from step to step: one for the costs of every step (launching, decoding), one
for prefill work, because what disturbs the first (a busy host) need not slow the second. Outliers
are clipped against the prediction, unless most of the last steps agree with them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from niyama.latency.leastsquares import Sums, solve_nonnegative
from niyama.latency.margin import QuantileMargin
from niyama.latency.search import ChunkSearch
from niyama.scheduling.policy import BatchShape


class Coefficients(NamedTuple):
    """Seconds per step, per token and per token of context; all >= 0."""

    fixed: float
    mixed: float
    prefill: float
    large: float
    decode: float
    decode_context: float
    prefill_context: float
    attention: float


# Right within a factor of ten for small models on CPUs and large ones on GPUs; a few steps replace it.
PRIOR: Final = Coefficients(5e-3, 1e-3, 5e-5, 5e-6, 5e-5, 1e-7, 1e-7, 1e-8)
# A step in which each cost shows: how much of a feature weighs as much as one relative step.
_TYPICAL: Final = Coefficients(1.0, 1.0, 512.0, 512.0, 32.0, 32e3, 2e3, 5e5)
_SIZE: Final = len(PRIOR)
# What `Coefficients` names, as it is used in every step: compiled, such a tuple holds its numbers themselves.
_Eight = tuple[float, float, float, float, float, float, float, float]
_MIN_STEP_S: Final = 1e-6
_MAX_STEP_S: Final = 3600.0
# Time for any chunk; without a limit the chunk is solved for this one.
_AMPLE_S: Final = 1e9
# Steps of one regime after which older ones fade, and steps between fits.
_WINDOW: Final = 128
_REFIT_EVERY: Final = 32
# A step counts as at most this many times longer or shorter than what is usual now.
_CLIP: Final = 2.0
# The first steps only scale the prior; a regime with this few steps says nothing of the machine's speed.
_START_STEPS: Final = 5
_NEW_ROWS: Final = 16
# The prior's weight against one step, in features that no step has shown.
_PRIOR_WEIGHT: Final = 1e-3
# How much of a step's relative error goes into the speeds, and how far an error of the other costs
# speaks for prefill work too.
_SPEED_RATE: Final = 0.15
_SPEED_SPILL: Final = 0.2
# What is left, after a step, of a speed's distance from that of the first steps. A model that is a little
# wrong somewhere has an error that speeds and coefficients would push to and fro between them for ever.
_SPEED_KEEP: Final = 1.0 - 1.0 / 4096
# Scores are over about the last 500 steps.
_ERROR_RATE: Final = 0.002
# What time cuts off ends a step at a multiple of so many tokens (decision 15).
GRAIN_TOKENS: Final = 32


class OnlineModel(ChunkSearch):
    """Learns the cost of a step from steps; no offline profile, no clock, deterministic.

    Cost: `predict_s` under a microsecond, `observe` some ten microseconds.

    Args:
        prior: Coefficients before the first step.
        knee_tokens: Tokens per step beyond which a token may cost more (compute-bound).
        late_share: Share of steps that may take longer than prediction plus margin, 0..1.
    """

    def __init__(
        self, *, prior: Coefficients = PRIOR, knee_tokens: int = 256, late_share: float = 0.03
    ) -> None:
        """Start from the prior, which the first few steps scale to the machine."""
        self._knee = knee_tokens
        self._prior = prior
        self._fitted: list[float] = list(prior)
        self._log_first_speed = 0.0
        self._log_speed = 0.0
        self._log_prefill_speed = 0.0
        self._step_scale = self._prefill_scale = 1.0
        self._coefficients: _Eight = prior
        self._regimes: dict[tuple[int, int, int], Sums] = {}
        self._margin = QuantileMargin(quantile=1.0 - late_share)
        self._ratios: deque[float] = deque(maxlen=9)
        self._next_fit = 1
        self._num_steps = 0
        self._mean_s = 0.0
        self._error_s = 0.0
        self._late_share = 0.0

    def predict_s(self, shape: BatchShape) -> float:
        """Return the expected duration, seconds, > 0, finite, non-decreasing in every feature."""
        prefill, decode, decode_context, prefill_context, pairs = shape
        c = self._coefficients
        predicted_s = c[0] + c[4] * decode + c[5] * decode_context
        if prefill:
            predicted_s += c[1] + c[2] * prefill + c[6] * prefill_context + c[7] * pairs
        over = prefill + decode - self._knee
        return predicted_s + c[3] * over if over > 0 else predicted_s

    def margin_s(self, predicted_s: float) -> float:
        """Return the time to add so that few steps take longer, seconds, >= 0."""
        return self._margin.margin_s(predicted_s)

    def largest_chunk(self, shape: BatchShape, context: int, limit_s: float, max_tokens: int) -> int:
        """Return the most prefill tokens that fit, as `ChunkSearch`, mostly in closed form."""
        if max_tokens <= 0:
            return 0
        room_s = self._margin.longest_prediction_s(limit_s) - self.predict_s(shape.with_chunk(1, context))
        guess = self._chunk_that_takes(room_s, shape, context, max_tokens)
        fits = guess == 0 or self.safe_s(shape.with_chunk(guess, context)) <= limit_s
        if fits and (guess == max_tokens or self.safe_s(shape.with_chunk(guess + 1, context)) > limit_s):
            return guess
        return super().largest_chunk(shape, context, limit_s, max_tokens)

    def efficient_chunk(self, shape: BatchShape, context: int, num_tokens: int) -> int:
        """Return the chunk that makes the step a multiple of `GRAIN_TOKENS`, or all of fewer tokens.

        The model is too smooth to show what sizes that an engine has not seen lately cost it. Never falls
        when `num_tokens` grows.
        """
        num_beyond = (shape.num_prefill_tokens + shape.num_decode_tokens + num_tokens) % GRAIN_TOKENS
        return num_tokens - num_beyond if num_beyond < num_tokens else num_tokens

    def _chunk_that_takes(self, room_s: float, shape: BatchShape, context: int, max_tokens: int) -> int:
        """Return the chunk whose time beyond that of one token is `room_s`, in 0..max_tokens."""
        if room_s < 0.0:
            return 0
        _, _, per_token, large, _, _, _, attention = self._coefficients
        linear, square = per_token + attention * context, attention / 2
        to_knee = self._knee - shape.num_prefill_tokens - shape.num_decode_tokens
        room_s = min(_AMPLE_S, room_s) + linear + square + large * max(0, 1 - to_knee)
        num_tokens = _positive_root(linear, square, room_s)
        if num_tokens > to_knee:
            num_tokens = _positive_root(linear + large, square, room_s + large * to_knee)
        return int(min(num_tokens, max_tokens))

    def observe(self, shape: BatchShape, duration_s: float) -> None:
        """Learn from a step; empty steps and durations outside 1 us to 1 h (or NaN) are ignored."""
        if not _MIN_STEP_S <= duration_s <= _MAX_STEP_S or shape[0] + shape[1] <= 0:
            return
        predicted_s = self.predict_s(shape)
        self._judge(predicted_s, duration_s)
        self._num_steps += 1
        if self._num_steps <= _START_STEPS:
            self._scale_prior(shape, duration_s)
            return
        self._margin.observe(predicted_s, duration_s)
        ratio = self._plausible(duration_s / predicted_s)
        sums = self._learn(shape, predicted_s, ratio)
        if sums.num_rows > _NEW_ROWS:
            # Only a regime that is known can tell a slower machine from a wrong coefficient.
            self._follow_speed(shape, predicted_s, ratio)
        if self._num_steps >= self._next_fit or sums.num_rows in (1, 2, 4, 8, _NEW_ROWS):
            self._fit()
        else:
            self._rescale()

    def stats(self) -> dict[str, object]:
        """Return what was learned and how well it does, recent steps weighing most.

        `mean_abs_error_share` is the mean absolute error over the mean step time; `late_share` the
        share of steps beyond prediction plus margin; `slowness` how many times longer than in the first
        steps every step and prefill work take, as far as that is not in the coefficients by now.
        """
        speeds = (self._log_speed, self._log_prefill_speed)
        return {
            "model": "online",
            "num_steps": self._num_steps,
            "coefficients": Coefficients(*self._coefficients)._asdict(),
            "knee_tokens": self._knee,
            "mean_step_s": self._mean_s,
            "mean_abs_error_share": self._error_s / self._mean_s if self._mean_s else 0.0,
            "late_share": self._late_share,
            "slowness": [math.exp(speed - self._log_first_speed) for speed in speeds],
        }

    def _judge(self, predicted_s: float, duration_s: float) -> None:
        """Keep score of the prediction."""
        rate = max(_ERROR_RATE, 1.0 / (self._num_steps + 1))
        is_late = duration_s > predicted_s + self._margin.margin_s(predicted_s)
        self._mean_s += rate * (duration_s - self._mean_s)
        self._error_s += rate * (abs(duration_s - predicted_s) - self._error_s)
        self._late_share += rate * (is_late - self._late_share)

    def _scale_prior(self, shape: BatchShape, duration_s: float) -> None:
        """Fit the prior to the machine with one factor: the median over the first steps."""
        as_prior_s = self.predict_s(shape) / math.exp(self._log_speed)
        self._log_first_speed = math.log(self._usual(duration_s / as_prior_s))
        self._log_speed = self._log_prefill_speed = self._log_first_speed
        if self._num_steps == _START_STEPS:
            self._ratios.clear()
        self._rescale()

    def _usual(self, ratio: float) -> float:
        """Return the median of the last ratios, this one included."""
        self._ratios.append(ratio)
        return sorted(self._ratios)[(len(self._ratios) - 1) // 2]

    def _plausible(self, ratio: float) -> float:
        """Clip actual over predicted to what the last steps make believable."""
        usual = self._usual(ratio)
        return max(min(1.0, usual) / _CLIP, min(ratio, max(1.0, usual) * _CLIP))

    def _learn(self, shape: BatchShape, predicted_s: float, ratio: float) -> Sums:
        """Add the step, as a share of its predicted time, to the sums of its regime."""
        prefill, decode, decode_context, prefill_context, pairs = shape
        over = max(0, prefill + decode - self._knee)
        each, work = self._step_scale / predicted_s, self._prefill_scale / predicted_s
        row = [each, 0.0, 0.0, over * work, decode * each, decode_context * each, 0.0, 0.0]
        if prefill:
            key = (prefill.bit_length(), 0, max(0, int(pairs / prefill).bit_length() - 7) // 2)
            row[1], row[2], row[6], row[7] = each, prefill * work, prefill_context * work, pairs * work
        else:
            key = (0, decode.bit_length(), decode_context.bit_length() // 2)
        sums = self._regimes.get(key)
        if sums is None:
            sums = self._regimes[key] = Sums(_SIZE, _WINDOW)
        sums.add(row, ratio)
        return sums

    def _follow_speed(self, shape: BatchShape, predicted_s: float, ratio: float) -> None:
        """Give each speed its part of the error, by its part of the prediction.

        The error is the one whose mean the fit makes zero, `ratio - 1`. With any other, such as a logarithm
        or a clipped one, scatter alone would move the speeds on and on, and the coefficients against them.
        """
        fixed, mixed, _, _, per_decode, per_context, _, _ = self._coefficients
        other_s = fixed + per_decode * shape.num_decode_tokens + per_context * shape.decode_context
        other_share = (other_s + mixed if shape.num_prefill_tokens else other_s) / predicted_s
        error, home = _SPEED_RATE * (ratio - 1.0), self._log_first_speed
        self._log_speed = home + _SPEED_KEEP * (self._log_speed - home) + error * other_share
        prefill_share = 1.0 - other_share + _SPEED_SPILL * other_share
        self._log_prefill_speed = (
            home + _SPEED_KEEP * (self._log_prefill_speed - home) + error * prefill_share
        )

    def _fit(self) -> None:
        """Solve for the coefficients from the sums of all regimes."""
        gap = min(_REFIT_EVERY, 1 + self._num_steps // 4)
        self._next_fit = self._num_steps + max(gap, len(self._regimes) if gap == _REFIT_EVERY else 0)
        products = [sum(column) for column in zip(*[s.products for s in self._regimes.values()], strict=True)]
        targets = [sum(column) for column in zip(*[s.targets for s in self._regimes.values()], strict=True)]
        matrix = [[0.0] * _SIZE for _ in range(_SIZE)]
        values = iter(products)
        for i in range(_SIZE):
            for j in range(i, _SIZE):
                matrix[i][j] = matrix[j][i] = next(values)
        for i, (typical, prior) in enumerate(zip(_TYPICAL, self._prior, strict=True)):
            weight = _PRIOR_WEIGHT * (typical / self._mean_s) ** 2
            matrix[i][i] += weight
            targets[i] += weight * prior
        self._fitted = solve_nonnegative(matrix, targets, self._fitted, sweeps=12)
        self._margin.refresh()
        self._rescale()

    def _rescale(self) -> None:
        """Apply the speeds to the fitted coefficients."""
        each, work = math.exp(self._log_speed), math.exp(self._log_prefill_speed)
        self._step_scale, self._prefill_scale = each, work
        f = self._fitted
        self._coefficients = (
            max(f[0] * each, _MIN_STEP_S),
            f[1] * each,
            f[2] * work,
            f[3] * work,
            f[4] * each,
            f[5] * each,
            f[6] * work,
            f[7] * work,
        )


def _positive_root(linear: float, square: float, value: float) -> float:
    """Solve linear·x + square·x² = value for x >= 0; infinite when both coefficients vanish."""
    divisor = linear + math.sqrt(linear * linear + 4.0 * square * value)
    return 2.0 * value / divisor if divisor > 0.0 else math.inf
