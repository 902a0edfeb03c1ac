"""Writes scripted lessons and what independent implementations make of them, for `selection/tests/oracle.rs`.

    pip install mabwiser==2.7.4 numpy && python selection/tests/oracle/generate.py

epsilon-greedy's means, UCB1's bounds, Thompson's posteriors and LinUCB's regressions and bounds are
mabwiser's. What mabwiser does not have is written out here in numpy, in plain weights instead of logarithms:
Exp3 (river's is a form with rewards and another mixing), Exp3-IX (Neu 2015) and Hedge with fixed share
(Herbster and Warmuth 1998).
"""

import json
from pathlib import Path

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

MODELS = 5
STEPS = 400
# How often a lesson is of the plain kind.
PLAIN = 0.85


def write(name: str, **content) -> None:
    """Writes one file, its numbers in full."""
    path = Path(__file__).parent / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def lessons(seed: int, binary: bool) -> list[tuple[int, float]]:
    """Models, each once and then at random, and their rewards."""
    random = np.random.default_rng(seed)
    models = list(range(MODELS)) + random.integers(MODELS, size=STEPS - MODELS).tolist()
    means = np.linspace(0.2, 0.9, MODELS)
    rewards = [
        float(random.random() < means[m]) if binary else float(random.random() * means[m]) for m in models
    ]
    return list(zip(models, rewards))


def mabwiser(name: str, policy, binary: bool = False, **parameters) -> None:
    """A policy without contexts: what it expects of each model after each lesson, once each was played."""
    bandit = MAB(list(range(MODELS)), policy)
    script = lessons(len(name), binary)
    steps = []
    for index, (model, reward) in enumerate(script):
        bandit.partial_fit([model], [reward])
        if index + 1 >= MODELS:
            inner = bandit._imp
            if name == "thompson":
                state = [[inner.arm_to_success_count[m], inner.arm_to_fail_count[m]] for m in range(MODELS)]
            else:
                state = [float(inner.arm_to_expectation[m]) for m in range(MODELS)]
            steps.append(state)
    write(name, **parameters, lessons=script, expected=steps)


def linucb() -> None:
    """The regressions' sums and, for a new context, each model's bound, after each lesson."""
    dimensions, alpha, ridge = 4, 0.7, 1.5
    random = np.random.default_rng(6)
    bandit = MAB(list(range(MODELS)), LearningPolicy.LinUCB(alpha=alpha, l2_lambda=ridge))
    truth = random.normal(size=(MODELS, dimensions))
    script, bounds, probes = [], [], []
    for step in range(STEPS):
        context = random.normal(size=dimensions)
        model = step % MODELS if step < MODELS else int(random.integers(MODELS))
        reward = float(1 / (1 + np.exp(-truth[model] @ context)))
        bandit.partial_fit([model], [reward], [context])
        script.append((model, reward, context.tolist()))
        if step + 1 >= MODELS:
            probe = random.normal(size=dimensions)
            probes.append(probe.tolist())
            expected = bandit.predict_expectations([probe])
            bounds.append([float(expected[m]) for m in range(MODELS)])
    sums = []
    for model in range(MODELS):
        inner = bandit._imp.arm_to_model[model]
        a = inner.A - ridge * np.identity(dimensions)
        sums.append(a[np.triu_indices(dimensions)].tolist() + inner.Xty.tolist())
    write(
        "linucb",
        dimensions=dimensions,
        alpha=alpha,
        ridge=ridge,
        lessons=script,
        probes=probes,
        expected=bounds,
        sums=sums,
    )


def exp3() -> None:
    """Weights that a loss, over its model's propensity, shrinks; none below `floor` of the mean."""
    eta, floor = 0.07, 0.05
    random = np.random.default_rng(7)
    weights, script, steps = np.ones(MODELS), [], []
    means = np.linspace(0.7, 0.1, MODELS)
    for _ in range(STEPS):
        shares = weights / weights.sum()
        model = int(random.choice(MODELS, p=shares))
        loss = float(random.random() * 2 * means[model])
        # Now and then, feedback on what was decided long ago, with the propensity of then.
        propensity = float(shares[model]) if random.random() < PLAIN else 0.2
        weights[model] *= np.exp(-eta * min(loss, 1.0) / propensity)
        weights /= weights.mean()
        weights = np.maximum(weights, floor)
        script.append((model, loss, propensity))
        steps.append((weights / weights.sum()).tolist())
    write("exp3", eta=eta, floor=floor, lessons=script, expected=steps)


def exp3_ix() -> None:
    """Sums of losses over propensities plus half the rate, which falls with the number of lessons."""

    def rate(lessons: int) -> float:
        return float(np.sqrt(np.log(MODELS) / (MODELS * min(lessons + 1, 1000))))

    random = np.random.default_rng(8)
    sums, script, steps = np.zeros(MODELS), [], []
    means = np.linspace(0.6, 0.3, MODELS)
    for step in range(3 * STEPS):
        eta = rate(step)
        weights = np.exp(-eta * (sums - sums.min()))
        shares = weights / weights.sum()
        model = int(random.choice(MODELS, p=shares))
        loss = float(random.random() < means[model])
        sums[model] += loss / (shares[model] + eta / 2)
        # No weight below 1 % of the mean.
        weights = np.exp(-eta * (sums - sums.min()))
        weights = np.maximum(weights / weights.mean(), 0.01)
        sums = -np.log(weights) / eta
        script.append((model, loss, float(shares[model])))
        weights = np.exp(-rate(step + 1) * (sums - sums.min()))
        steps.append((weights / weights.sum()).tolist())
    write("exp3_ix", lessons=script, expected=steps)


def exp4() -> None:
    """Hedge with fixed share among those that are heard.

    An unknown loss is taken to be the model's mean so far, at most what those that are heard usually
    lose; 1/2 if there is none.
    """
    eta, share = 0.3, 0.004
    random = np.random.default_rng(9)
    weights, script, steps = np.ones(MODELS) / MODELS, [], []
    known: list[list[float]] = [[] for _ in range(MODELS)]
    for step in range(3 * STEPS):
        means = np.linspace(0.8, 0.2, MODELS) if step // STEPS % 2 == 0 else np.linspace(0.2, 0.8, MODELS)
        losses = [float(random.random() < mean) if random.random() < PLAIN else None for mean in means]
        usual = np.array([np.mean(before) if before else 0.5 for before in known])
        heard = np.array([loss is not None for loss in losses])
        most = np.average(usual[heard], weights=weights[heard])
        silent = [min(mean, most) if before else 0.5 for before, mean in zip(known, usual)]
        taken = [mean if loss is None else loss for loss, mean in zip(losses, silent)]
        weights = weights * np.exp([-eta * loss for loss in taken])
        for before, loss in zip(known, losses):
            if loss is not None:
                before.append(loss)
        weights /= weights.sum()
        weights[heard] = (1 - share) * weights[heard] + share * weights[heard].mean()
        script.append(losses)
        steps.append(weights.tolist())
    write("exp4", eta=eta, share=share, lessons=script, expected=steps)


if __name__ == "__main__":
    mabwiser("epsilon_greedy", LearningPolicy.EpsilonGreedy(epsilon=0.1))
    mabwiser("ucb1", LearningPolicy.UCB1(alpha=0.8), exploration=0.8)
    mabwiser("thompson", LearningPolicy.ThompsonSampling(), binary=True)
    linucb()
    exp3()
    exp3_ix()
    exp4()
