//! `plutino test`: runs the tests of rule files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::junit::{self, Tested};
use super::{Etc, Failure, block_on, configure, say};
use crate::config::Config;
use crate::testing::{self, Outcome, Suite};

/// Run the tests of rule files
///
/// Tests are in a member `tests` of the rule file, or in rules.test.yaml beside rules.yaml. They run on the real engine
/// with a manual clock: nothing sleeps, nothing listens, and nothing is dialled.
#[derive(Args)]
pub struct Test {
    /// Rule files or test files. Each file with tests is tested separately, together with the files that have none
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    etc: Etc,
    /// Folder of the files that tables name; without it, `data` beside the rule file
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Update tests that fail: expect what the rules send
    #[arg(long)]
    update: bool,
}

impl Test {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let config = configure(&self.etc.etc, log)?;
        let suites = testing::load(&self.files).map_err(Failure::Problems)?;
        let tested = block_on(self.test(&suites, &config))?;
        if let Some(file) = &self.junit {
            let xml = junit::xml(&tested);
            std::fs::write(file, xml)
                .map_err(|error| Failure::Refused(format!("cannot write {}: {error}", file.display())))?;
        }
        let failed = tested.iter().filter(|tested| tested.failure.is_some()).count();
        let of = |count: usize| if count == 1 { "1 test".to_owned() } else { format!("{count} tests") };
        if tested.is_empty() {
            let only = self.only.as_deref().unwrap_or_default();
            return Err(Failure::Refused(format!("--only: no test has a name that contains {only:?}")));
        }
        writeln!(io::stdout().lock(), "{}: {} passed, {failed} failed", of(tested.len()), tested.len() - failed)?;
        if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
    }

    async fn test(&self, suites: &[Suite], config: &Config) -> Result<Vec<Tested>, Failure> {
        let mut tested = Vec::new();
        for suite in suites {
            let data = self.data.clone().unwrap_or_else(|| suite.path.parent().unwrap_or(Path::new("")).join("data"));
            let mut edits = Vec::new();
            for case in &suite.cases {
                if self.only.as_ref().is_some_and(|only| !case.name.contains(only)) {
                    continue;
                }
                let begun = Instant::now();
                let outcome = testing::run(case, suite, config, &data).await;
                let took = begun.elapsed();
                let place = format!("{}:{}", suite.path.display(), case.place.line);
                let mut failure = failure(&outcome, suite);
                let mut verdict = if failure.is_some() { "FAILED " } else { "ok     " };
                if self.update && outcome.failure() == Some(testing::Failure::Differs) {
                    edits.extend(testing::edits(&outcome, case, suite));
                    (verdict, failure) = ("updated", None);
                }
                let mut out = io::stdout().lock();
                writeln!(out, "{verdict} {place}: {}", case.name)?;
                if let Some((_, report)) = &failure {
                    out.write_all(report.as_bytes())?;
                }
                out.flush()?;
                tested.push(Tested { file: suite.path.display().to_string(), name: case.name.clone(), took, failure });
            }
            if !edits.is_empty() {
                write(suite, edits)?;
            }
        }
        Ok(tested)
    }
}

/// Why a test failed, if it did: the kind of failure, and the report.
fn failure(outcome: &Outcome, suite: &Suite) -> Option<(testing::Failure, String)> {
    outcome.failure().map(|failure| (failure, testing::report(outcome, suite)))
}

/// Writes new expectations. The file must not have changed since it was read, because somebody may be editing it.
fn write(suite: &Suite, edits: Vec<testing::Edit>) -> Result<(), Failure> {
    let shown = suite.path.display();
    let failed = |error: io::Error| Failure::Refused(format!("--update: cannot write {shown}: {error}"));
    let text = &suite.document.text;
    if std::fs::read_to_string(&suite.path).map_err(failed)? != *text {
        return Err(Failure::Refused(format!("--update: {shown} has changed while its tests ran; run them again")));
    }
    let changed = testing::apply(text, edits);
    let beside = suite.path.with_extension("plutino-update");
    std::fs::write(&beside, changed).and_then(|()| std::fs::rename(&beside, &suite.path)).map_err(failed)?;
    say(&format!("{shown} is updated: review it in the diff"));
    Ok(())
}

/// Seconds with three digits.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}
