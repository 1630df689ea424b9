# Go on from a study's images.csv in R: a mixed model of the scores, beside the tests of the report.
#
#     Rscript analyze_images.R STUDY
#
# STUDY is the folder of a study. Needs lme4.

library(lme4)

study <- commandArgs(trailingOnly = TRUE)[1]
plan <- paste(readLines(file.path(study, "study.json"), warn = FALSE), collapse = " ")
reference <- sub('.*"reference": *"([^"]*)".*', "\\1", plan)
higher_is_better <- !grepl('"higher_is_better": *false', plan)

# The learning rate of each method and fold of a split: the best one in validation.
runs <- read.csv(file.path(study, "runs.csv"))
runs <- runs[runs$status == "finished", ]
rates <- aggregate(validation_score ~ dataset + method + split + fold + learning_rate, data = runs, FUN = mean)
rates <- rates[order(rates$validation_score, decreasing = higher_is_better), ]
rates <- rates[!duplicated(rates[c("dataset", "method", "split", "fold")]), ]
rates$validation_score <- NULL

# One score for each subject and run: slices of a subject are no independent observations.
images <- read.csv(file.path(study, "images.csv"), na.strings = "", colClasses = c(subject = "character"))
images$structure[is.na(images$structure)] <- "all"
test <- merge(images[images$part == "test", ], rates)
scores <- aggregate(score ~ dataset + structure + method + fold + seed + run + subject, data = test, FUN = mean)
scores$method <- relevel(factor(scores$method), ref = reference)

for (part in split(scores, list(scores$dataset, scores$structure), drop = TRUE)) {
  # Subjects and runs vary at random. The effects are differences to the reference.
  fit <- lmer(score ~ method + (1 | subject) + (1 | run), data = part)
  effects <- cbind(difference = fixef(fit), confint(fit, parm = "beta_", method = "Wald"))
  cat(part$dataset[1], part$structure[1], ": difference to", reference, "with its 95 % interval\n")
  print(round(effects[-1, , drop = FALSE], 4))
}
