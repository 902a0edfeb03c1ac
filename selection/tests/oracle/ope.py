"""Writes ope.json: logged rounds, and what obp (Open Bandit Pipeline) 0.4.1 estimates from them.

Run it in an environment with obp 0.4.1, numpy and scikit-learn, from anywhere:

    pip install --no-deps obp==0.4.1
    pip install numpy scikit-learn scipy pandas pyyaml tqdm matplotlib mypy-extensions
    python ope.py

obp imports torch for its neural learners, which are not used here, so that a stand-in will do. obp's own
intervals are bootstraps; the standard errors here are those of the rounds' rewards as obp estimates them, for
SNIPS by the delta method.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from sklearn.linear_model import Ridge

torch = MagicMock()
torch.Tensor = type("Tensor", (), {})
torch.nn.Module = type("Module", (), {})
torch.utils.data.Dataset = type("Dataset", (), {})
for name, module in {"torch": torch, "torch.nn": torch.nn, "torch.optim": torch.optim}.items():
    sys.modules[name] = module
sys.modules["torch.nn.functional"] = torch.nn.functional
sys.modules["torch.utils.data"] = torch.utils.data

from obp.ope import (  # noqa: E402
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
)

ROUNDS, ARMS, FEATURES, FOLDS = 400, 4, 2, 5


def logged_rounds(random):
    """Rounds of a random policy, whose rewards depend on the context."""
    context = random.normal(size=(ROUNDS, FEATURES)).round(3)
    logits = 1.5 * random.normal(size=(ROUNDS, ARMS))
    propensities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    asked = np.array([random.choice(ARMS, p=p) for p in propensities])
    chance = 1 / (1 + np.exp(-(asked - 1.5 + context @ np.array([0.8, -0.5]))))
    reward = (random.random(ROUNDS) < chance).astype(float)
    return context, propensities, asked, reward


def guesses(features, asked, reward):
    """What each arm would have earned, by ridge regressions on the other folds."""
    guessed = np.full((ROUNDS, ARMS, 1), 0.5)
    fold_of = np.arange(ROUNDS) % FOLDS
    for fold in range(FOLDS):
        for arm in range(ARMS):
            others = (fold_of != fold) & (asked == arm)
            here = fold_of == fold
            if features.shape[1] == 0:
                guessed[here, arm, 0] = reward[others].mean()
            else:
                model = Ridge(alpha=1.0, solver="cholesky").fit(features[others], reward[others])
                guessed[here, arm, 0] = model.predict(features[here])
    return guessed.clip(0, 1)


def estimates(target, propensities, asked, reward, guessed):
    """What obp says of one target."""
    logged = {
        "reward": reward,
        "action": asked,
        "pscore": propensities[np.arange(ROUNDS), asked],
        "action_dist": target[:, :, None],
        "position": np.zeros(ROUNDS, dtype=int),
    }
    weight = target[np.arange(ROUNDS), asked] / logged["pscore"]
    ips, dr = InverseProbabilityWeighting(), DoublyRobust()
    snips = SelfNormalizedInverseProbabilityWeighting()
    modelled = {**logged, "estimated_rewards_by_reg_model": guessed}
    of_rounds = {
        "ips": ips._estimate_round_rewards(**logged),
        "dr": dr._estimate_round_rewards(**modelled),
    }
    values = {
        "ips": ips.estimate_policy_value(**logged),
        "snips": snips.estimate_policy_value(**logged),
        "dr": dr.estimate_policy_value(**modelled),
    }
    errors = {name: rewards.std(ddof=1) / np.sqrt(ROUNDS) for name, rewards in of_rounds.items()}
    residuals = weight * (reward - values["snips"]) / weight.mean()
    errors["snips"] = np.sqrt((residuals**2).sum() / (ROUNDS - 1) / ROUNDS)
    return {
        **{name: {"value": values[name], "standard_error": errors[name]} for name in values},
        "effective_sample_size": weight.sum() ** 2 / (weight**2).sum(),
    }


def main():
    """Writes the file."""
    context, propensities, asked, reward = logged_rounds(np.random.default_rng(7))
    one = np.zeros((ROUNDS, ARMS))
    one[:, 2] = 1
    targets = {"uniform": np.full((ROUNDS, ARMS), 1 / ARMS), "always:m2": one}
    expected = {}
    for kind, features in {"with_context": context, "without_context": context[:, :0]}.items():
        guessed = guesses(features, asked, reward)
        expected[kind] = {
            name: estimates(target, propensities, asked, reward, guessed) for name, target in targets.items()
        }
    rounds = [
        {"context": x.tolist(), "propensities": p.tolist(), "asked": int(a), "reward": float(r)}
        for x, p, a, r in zip(context, propensities, asked, reward, strict=True)
    ]
    text = json.dumps({"rounds": rounds, "expected": expected})
    Path(__file__).with_name("ope.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
