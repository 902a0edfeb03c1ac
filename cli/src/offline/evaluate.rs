//! `clipper evaluate`: what other policies would have earned.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Loss, OutputKind, Selection};
use clipper_selection::log::Record;
use clipper_selection::offline::OfflineError;
use clipper_selection::offline::estimate::Estimate;
use clipper_selection::offline::full_information::{ModelErrors, OverTrials, Study, StudyReport};
use clipper_selection::offline::join::Judgements;
use clipper_selection::offline::off_policy::{Evaluated, Events, Logged};
use clipper_selection::offline::rounds::{Contents, Round, WrittenRounds};
use clipper_selection::offline::target::Target;
use clipper_selection::validate::validate;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use super::{LogReader, align, log_files, open, print, table, write_json};

const EXAMPLES: &str = "\
Examples:
  clipper evaluate ~/.clipper/decisions/my-app
      what the logged policy earned, and what each model, and one at random, would have
  clipper evaluate ~/.clipper/decisions/my-app --policy thompson --policy '{\"policy\": \"epsilon_greedy\", \"epsilon\": 0.05}'
      what these would have, by inverse propensities (IPS, SNIPS) and doubly robust (DR), with 95 % intervals
  clipper evaluate --full-information answers.jsonl --policy exp4 --policy exp3 --trials 10
      where each line has every model's output and the label, {\"outputs\": {\"a\": 1, \"b\": 0}, \"label\": 1}: exactly

A policy is a name, a JSON object as for /admin/add_app, 'always:MODEL', or 'uniform'.
docs/evaluation.md says what each estimate means, and when not to trust it.";

/// The policies that are run where none is named and everything is known.
const ALL: [&str; 7] = ["exp4", "majority_vote", "exp3", "exp3_ix", "epsilon_greedy", "ucb1", "thompson"];

/// Evaluates policies on what was logged.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`clipper evaluate --help` shows examples.")]
pub struct EvaluateSettings {
    /// Read these files of a decision log, or all files of these directories
    #[arg(value_name = "LOG", required_unless_present = "full_information")]
    logs: Vec<PathBuf>,
    /// Read JSON lines with the output of every model and the label
    #[arg(long, value_name = "FILE", conflicts_with_all = ["logs", "app"])]
    full_information: Option<PathBuf>,
    /// Evaluate this policy; can be repeated [default: every model by itself and 'uniform'; with full information all policies]
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<Target>,
    /// Of this application's decisions alone
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
    /// Where all chance comes from
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Write the result as JSON here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Run each policy so many times, the i-th (from 0) from seed + i
    #[arg(long, value_name = "NUMBER", default_value = "1", help_heading = "Full information")]
    trials: NonZeroUsize,
    /// Tell the errors of so many parts of equal length
    #[arg(long, value_name = "NUMBER", default_value = "4", help_heading = "Full information")]
    segments: NonZeroUsize,
    /// What an output costs: zero_one, absolute:SCALE or squared:SCALE [default: as logged, or zero_one]
    #[arg(long, value_name = "LOSS", value_parser = loss, help_heading = "Full information")]
    loss: Option<Loss>,
    /// What outputs are [default: as logged, or detected]
    #[arg(long, value_enum, help_heading = "Full information")]
    output_kind: Option<Kind>,
}

/// What outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Numbers where all are, and one has a fraction; labels otherwise.
    Detected,
    /// They vote.
    Labels,
    /// They average.
    Numbers,
}

impl From<Kind> for OutputKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Detected => Self::Detected,
            Kind::Labels => Self::Labels,
            Kind::Numbers => Self::Numbers,
        }
    }
}

fn loss(text: &str) -> Result<Loss, String> {
    let expected = || "expected zero_one, absolute:SCALE or squared:SCALE, with a scale above 0".to_owned();
    let scale = |text: &str| {
        text.parse().ok().filter(|scale: &f64| *scale > 0.0 && scale.is_finite()).ok_or_else(expected)
    };
    match text.split_once(':') {
        None if text == "zero_one" => Ok(Loss::ZeroOne),
        Some(("absolute", text)) => Ok(Loss::Absolute { scale: scale(text)? }),
        Some(("squared", text)) => Ok(Loss::Squared { scale: scale(text)? }),
        _ => Err(expected()),
    }
}

/// Evaluates, and prints and writes what came of it.
///
/// # Errors
/// If the files or the policies do not allow it.
pub fn run(settings: &EvaluateSettings) -> anyhow::Result<()> {
    match &settings.full_information {
        Some(file) => settings.run_file(file),
        None => settings.run_log(),
    }
}

/// What a log holds, by a first reading.
struct Survey {
    application: AppName,
    selection: Selection,
    judgements: Judgements,
    decisions: u64,
}

/// The result of an evaluation by propensities.
#[derive(Serialize)]
struct ByPropensities<'a> {
    application: &'a AppName,
    decisions: u64,
    #[serde(flatten)]
    logged: &'a Logged,
    policies: &'a [Evaluated],
}

impl EvaluateSettings {
    fn run_file(&self, file: &Path) -> anyhow::Result<()> {
        let name = || file.display().to_string();
        let contents = Contents::of(open(file)?).with_context(name)?;
        let study = self.study(&Selection::default())?;
        let rounds = WrittenRounds::new(open(file)?, &contents.models, study.loss);
        self.tell_study(&study.run(&contents, rounds).with_context(name)?)
    }

    fn run_log(&self) -> anyhow::Result<()> {
        let files = log_files(&self.logs)?;
        let survey = self.survey(&files)?;
        let only = Some(&survey.application);
        let mut events = Events::default();
        let mut models: Vec<ModelName> = Vec::new();
        let mut rounds = 0;
        for record in LogReader::new(&files, only) {
            let Record::Decision(decision) = record? else { continue };
            let Some(judgement) = survey.judgements.on(decision.query_id) else { continue };
            if Round::of_decision(&decision, judgement, &[]).is_some() {
                rounds += 1;
                for model in decision.candidates {
                    if !models.contains(&model) {
                        models.push(model);
                    }
                }
            } else {
                events.add(*decision, judgement);
            }
        }
        if events.is_empty() && rounds > 0 {
            let contents = Contents { models, rounds };
            let rounds = LogReader::new(&files, only).filter_map(|record| match record {
                Ok(Record::Decision(decision)) => {
                    let judgement = survey.judgements.on(decision.query_id)?;
                    Round::of_decision(&decision, judgement, &contents.models).map(Ok)
                }
                Ok(_) => None,
                Err(error) => Some(Err(OfflineError::Unfit(format!("{error:#}")))),
            });
            let study = self.study(&survey.selection)?;
            return self.tell_study(&study.run(&contents, rounds)?);
        }
        if events.is_empty() {
            bail!(
                "none of the {} decisions of '{}' has feedback that names its query ({} feedbacks name none)",
                survey.decisions,
                survey.application,
                survey.judgements.without_query
            );
        }
        self.by_propensities(&survey, events)
    }

    fn survey(&self, files: &[PathBuf]) -> anyhow::Result<Survey> {
        let mut started: Option<(AppName, Selection)> = None;
        let mut judgements = Judgements::default();
        let mut decisions = 0;
        for record in LogReader::new(files, self.app.as_ref()) {
            match record? {
                Record::Start { application, selection, .. } => {
                    if let Some((other, _)) = started.as_ref().filter(|(other, _)| *other != application) {
                        bail!(
                            "the log is of several applications, such as '{other}' and '{application}': choose one by --app"
                        );
                    }
                    started = Some((application, selection));
                }
                Record::Decision(_) => decisions += 1,
                record => judgements.add(record),
            }
        }
        let (application, selection) = started.context(match &self.app {
            Some(app) => format!("the log has nothing of '{app}'"),
            None => "the log is empty".to_owned(),
        })?;
        Ok(Survey { application, selection, judgements, decisions })
    }

    fn by_propensities(&self, survey: &Survey, mut events: Events) -> anyhow::Result<()> {
        events.sort();
        let targets = if self.policies.is_empty() {
            let models = events.models().iter().cloned().map(Target::Always);
            models.chain([Target::Uniform]).collect()
        } else {
            self.policies.clone()
        };
        let logged = events.logged();
        let model = events.reward_model();
        let policies = targets.iter().map(|target| events.evaluate(target, &model, self.seed));
        let policies = policies.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
        print(&propensities_text(survey, &logged, &policies))?;
        let (application, decisions) = (&survey.application, survey.decisions);
        let result = ByPropensities { application, decisions, logged: &logged, policies: &policies };
        write_json(self.json.as_deref(), &result)
    }

    fn study(&self, logged: &Selection) -> anyhow::Result<Study> {
        let targets = if self.policies.is_empty() {
            ALL.iter().map(|name| name.parse()).collect::<Result<_, _>>().map_err(anyhow::Error::msg)?
        } else {
            self.policies.clone()
        };
        let loss = self.loss.unwrap_or(logged.loss);
        let output_kind = self.output_kind.map_or(logged.output_kind, Into::into);
        for target in &targets {
            if let Target::Policy(policy) = target {
                let selection =
                    Selection { policy: policy.clone(), loss, output_kind, ..Selection::default() };
                validate(&selection).map_err(|error| anyhow::anyhow!("--policy {target}: {error}"))?;
            }
        }
        Ok(Study {
            targets,
            trials: self.trials,
            seed: self.seed,
            segments: self.segments,
            loss,
            output_kind,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        })
    }

    fn tell_study(&self, report: &StudyReport) -> anyhow::Result<()> {
        print(&study_text(report))?;
        write_json(self.json.as_deref(), report)
    }
}

fn propensities_text(survey: &Survey, logged: &Logged, policies: &[Evaluated]) -> String {
    let interval =
        |estimate: &Estimate| format!("{:.4} [{:.4}, {:.4}]", estimate.value, estimate.low, estimate.high);
    let first = ["(logged)".to_owned(), interval(&logged.reward), String::new(), String::new()];
    let first = [first.to_vec(), vec![logged.events.to_string(), String::new(), String::new()]].concat();
    let rows = policies.iter().map(|policy| {
        let estimates = &policy.estimates;
        vec![
            policy.policy.clone(),
            interval(&estimates.ips),
            estimates.snips.as_ref().map_or_else(|| "-".to_owned(), interval),
            interval(&estimates.dr),
            format!("{:.0}", estimates.effective_sample_size),
            format!("{:.1} %", policy.support * 100.0),
            policy.learned_from.map_or_else(String::new, |events| events.to_string()),
        ]
    });
    let rows = std::iter::once(first).chain(rows).map(|row| <[String; 7]>::try_from(row).unwrap_or_default());
    let header = ["mean reward", "IPS", "SNIPS", "DR", "effective events", "support", "learned from"];
    let mut lines = vec![
        format!(
            "{} decisions of '{}', {} of them with feedback; 95 % intervals",
            survey.decisions, survey.application, logged.events
        ),
        table(header, rows).to_string(),
    ];
    for policy in policies {
        lines.extend(policy.cautions.iter().map(|caution| format!("caution: {}: {caution}", policy.policy)));
    }
    lines.join("\n")
}

fn study_text(report: &StudyReport) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let segments = report.segment_rounds.len();
    let ends = report.segment_rounds.iter().scan(0, |end, rounds| {
        let begin = *end;
        *end += rounds;
        Some(format!("{begin}..{end}"))
    });
    table.set_header(["mean loss".to_owned(), "all".to_owned()].into_iter().chain(ends));
    let over_trials = |error: &OverTrials| match report.trials {
        1 => format!("{:.4}", error.mean),
        _ => format!("{:.4} ± {:.4}", error.mean, error.sd),
    };
    for policy in &report.policies {
        let figures = std::iter::once(&policy.error).chain(&policy.segments).map(over_trials);
        table.add_row(std::iter::once(policy.policy.clone()).chain(figures));
    }
    let alone = |name: String, errors: &ModelErrors| {
        let figures =
            std::iter::once(&errors.error).chain(&errors.segments).map(|error| format!("{error:.4}"));
        std::iter::once(name).chain(figures).collect::<Vec<_>>()
    };
    for model in &report.models {
        table.add_row(alone(format!("model {}", model.model), model));
    }
    table.add_row(alone(format!("best in hindsight: {}", report.best_model.model), &report.best_model));
    let best = report.best_of_segments.iter().map(|best| format!("{:.4} {}", best.error, best.model));
    let best_error = format!("{:.4}", report.best_of_segments_error);
    table.add_row(["best of each segment".to_owned(), best_error].into_iter().chain(best));
    align(&mut table);
    format!(
        "{} rounds in {segments} segments, {} from seed {}\n{table}",
        report.rounds,
        if report.trials == 1 { "1 trial".to_owned() } else { format!("{} trials", report.trials) },
        report.seed
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Evaluate {
        #[command(flatten)]
        settings: EvaluateSettings,
    }

    fn settings(flags: &[&str]) -> Result<EvaluateSettings, String> {
        let parsed = Evaluate::try_parse_from([&["evaluate"], flags].concat());
        parsed.map(|parsed| parsed.settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_loss_is_read_with_its_scale() {
        assert_eq!(loss("zero_one"), Ok(Loss::ZeroOne));
        assert_eq!(loss("squared:2.5"), Ok(Loss::Squared { scale: 2.5 }));
        for wrong in ["absolute", "absolute:0", "zero", "squared:x"] {
            assert!(loss(wrong).unwrap_err().starts_with("expected zero_one"), "{wrong}");
        }
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_with_the_reason() {
        for (flags, reason) in [
            (&[][..], "not provided"),
            (&["log", "--full-information", "x"], "cannot be used with"),
            (&["log", "--policy", "exp5"], "expected 'uniform', 'always:MODEL'"),
            (&["log", "--trials", "0"], "zero"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(reason), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_file_of_full_information_becomes_a_table_and_json() {
        let directory = tempfile::tempdir().unwrap();
        let [file, json] = ["answers.jsonl", "result.json"].map(|name| directory.path().join(name));
        std::fs::write(&file, "{\"outputs\": {\"a\": 1, \"b\": 0}, \"label\": 1}\n".repeat(8)).unwrap();
        let flags =
            ["--policy", "always:b", "--policy", "majority_vote", "--segments", "2", "--full-information"];
        let paths = [file.display().to_string(), "--json".to_owned(), json.display().to_string()];
        run(&settings(&[&flags[..], &paths.each_ref().map(String::as_str)].concat()).unwrap()).unwrap();
        let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(result["policies"][0]["error"]["mean"], 1.0);
        assert_eq!(result["policies"][1]["segments"][1]["mean"], 0.0);
        assert_eq!(result["best_model"]["model"], "a");

        std::fs::write(&file, "{\"outputs\": {\"a\": 1}}\n").unwrap();
        let error = run(&settings(&["--full-information", &paths[0]]).unwrap()).unwrap_err();
        assert!(
            format!("{error:#}").ends_with("answers.jsonl: line 1: missing field `label` at column 21"),
            "{error:#}"
        );
    }
}
