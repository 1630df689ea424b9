"""Go on from a study's images.csv in Python: a mixed model of the scores, beside the tests of the report.

    python analyze_images.py STUDY

STUDY is the folder of a study. Needs pandas and statsmodels (pip install "monai-iln[study]").
"""

import json
import sys
from pathlib import Path

import pandas as pd
import statsmodels.formula.api as smf

study = Path(sys.argv[1])
plan = json.loads((study / "study.json").read_text())
reference = plan["reference"]
higher_is_better = plan.get("metric", {}).get("higher_is_better", True)

# The learning rate of each method and fold of a split: the best one in validation.
# Only an empty cell is a missing value: "None" and "NA" are names.
runs = pd.read_csv(study / "runs.csv", keep_default_na=False, na_values={"validation_score": "", "learning_rate": ""})
runs = runs[runs["status"] == "finished"]
key = ["dataset", "method", "split", "fold", "learning_rate"]
rates = runs.groupby(key, as_index=False)["validation_score"].mean()
rates = rates.sort_values("validation_score", ascending=not higher_is_better)
rates = rates.drop_duplicates(key[:-1])[key]

# One score for each subject and run: slices of a subject are no independent observations.
texts = {"subject": str, "structure": str}
images = pd.read_csv(study / "images.csv", dtype=texts, keep_default_na=False, na_values={"score": ""})
test = images[images["part"] == "test"].merge(rates, on=key)
unit = ["dataset", "structure", "method", "fold", "seed", "run", "subject"]
scores = test.groupby(unit, as_index=False)["score"].mean().dropna(subset="score")

for (dataset, structure), part in scores.groupby(["dataset", "structure"]):
    # Subjects and runs vary at random; both lie within a fold. The effects are differences to the reference.
    model = smf.mixedlm(
        f"score ~ C(method, Treatment({reference!r}))",
        part,
        groups="fold",
        vc_formula={"subject": "0 + C(subject)", "run": "0 + C(run)"},
    )
    fit = model.fit(method="powell")  # which copes with a variance of 0
    effects = pd.DataFrame({"difference": fit.fe_params, "p": fit.pvalues.loc[fit.fe_params.index]})
    effects[["low", "high"]] = fit.conf_int().loc[effects.index]
    effects = effects.iloc[1:].rename(index=lambda name: name.split("[T.")[1].rstrip("]"))
    print(f"{dataset} {structure}: difference to {reference}, with its 95 % interval")
    print(effects[["difference", "low", "high", "p"]].to_string(float_format="{:.4f}".format))
