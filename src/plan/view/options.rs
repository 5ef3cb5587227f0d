//! The options of CREATE VIEW, typed.

use super::error::ViewError;
use crate::definition::rule::RuleOptions;
use crate::plan::{PlanError, PlanErrorKind};
use crate::property::duration;
use crate::sql::ast::{CreateView, ViewOption};
use crate::text::span::Span;
use crate::value::Text;

/// The most columns in PARAMS and CLAIMS together: the store divides rows by each combination of them that clients use.
const MOST_PARTS: usize = 8;

#[derive(Clone, Debug)]
pub struct ViewOptions {
    pub key: Option<Names>,
    pub params: Option<Names>,
    /// column, claim
    pub claims: Vec<(Text, Text)>,
    pub claims_span: Span,
    pub path: String,
    pub retain: i64,
    /// ms
    pub expire: Option<i64>,
    pub max_rows: usize,
    pub event_time: bool,
    pub late_tolerance: Option<i64>,
    pub idle_timeout: Option<i64>,
    /// ms
    pub checkpoint: Option<i64>,
}

/// Columns in an option.
#[derive(Clone, Debug)]
pub struct Names {
    pub names: Vec<Text>,
    pub span: Span,
}

impl ViewOptions {
    /// Reads the options of a statement.
    ///
    /// # Errors
    /// The first invalid option, with its place.
    pub fn read(create: &CreateView) -> Result<ViewOptions, PlanError> {
        let mut options = ViewOptions {
            key: None,
            params: None,
            claims: Vec::new(),
            claims_span: create.name.span,
            path: format!("/live/{}", create.name.name),
            retain: 60_000,
            expire: None,
            max_rows: 1_000_000,
            event_time: false,
            late_tolerance: None,
            idle_timeout: None,
            checkpoint: None,
        };
        for option in &create.options {
            match option.name {
                "KEY" => options.key = Some(names(option)?),
                "PARAMS" => options.params = Some(names(option)?),
                "CLAIMS" => (options.claims, options.claims_span) = (claims(option)?, option.span),
                "PATH" => options.path = path(option)?,
                "RETAIN" => options.retain = duration(option)?,
                "EXPIRE" => options.expire = Some(positive(option)?),
                "MAX_ROWS" => {
                    let rows = option.value.parse().ok().filter(|rows| *rows > 0);
                    options.max_rows = rows.ok_or_else(|| wrong(option, "a number of rows from 1 up"))?;
                }
                "EVENT_TIME" => options.event_time = flag(option)?,
                "LATE_TOLERANCE" => options.late_tolerance = Some(duration(option)?),
                "IDLE_TIMEOUT" => options.idle_timeout = Some(duration(option)?),
                "CHECKPOINT" => options.checkpoint = Some(positive(option)?),
                // The parser accepts the others only, see VIEW_OPTIONS.
                _ => return Err(wrong(option, "nothing: no view reads this option")),
            }
        }
        // Outside windows, the order of messages does not depend on time.
        options.event_time &= create.query.window.is_some();
        let parts = options.params.as_ref().map_or(0, |params| params.names.len()) + options.claims.len();
        if let Some(option) = create.options.iter().find(|option| option.name == "PARAMS")
            && parts > MOST_PARTS
        {
            return Err(wrong(option, "at most 8 columns, those of CLAIMS included"));
        }
        Ok(options)
    }

    /// The options of the rule that computes the view.
    pub fn rule_options(&self) -> RuleOptions {
        let defaults = RuleOptions::default();
        RuleOptions {
            event_time: self.event_time,
            late_tolerance: self.late_tolerance.unwrap_or(defaults.late_tolerance),
            idle_timeout: self.idle_timeout.unwrap_or(defaults.idle_timeout),
            ..defaults
        }
    }
}

fn wrong(option: &ViewOption, expected: &'static str) -> PlanError {
    let found = if option.value.is_empty() { "empty".to_owned() } else { option.value.to_string() };
    PlanError::at(PlanErrorKind::View(ViewError::Option { option: option.name, found, expected }), option.span)
}

fn names(option: &ViewOption) -> Result<Names, PlanError> {
    let names: Vec<Text> = option.value.split(',').map(|name| Text::from(name.trim())).collect();
    if names.iter().any(|name| name.is_empty()) {
        return Err(wrong(option, "column names with commas between them"));
    }
    if option.name == "PARAMS" && names.iter().any(|name| name.starts_with('_')) {
        return Err(wrong(option, "names that do not begin with _: those are the protocol's own"));
    }
    for (place, name) in names.iter().enumerate() {
        if names[..place].contains(name) {
            return Err(PlanError::at(PlanErrorKind::View(ViewError::Duplicate(name.to_string())), option.span));
        }
    }
    Ok(Names { names, span: option.span })
}

fn claims(option: &ViewOption) -> Result<Vec<(Text, Text)>, PlanError> {
    let pair = |pair: &str| {
        let (column, claim) = pair.split_once('=')?;
        let (column, claim) = (column.trim(), claim.trim());
        (!column.is_empty() && !claim.is_empty()).then(|| (Text::from(column), Text::from(claim)))
    };
    let pairs: Option<Vec<_>> = option.value.split(',').map(pair).collect();
    pairs.ok_or_else(|| wrong(option, "column=claim, with commas between several"))
}

fn path(option: &ViewOption) -> Result<String, PlanError> {
    let path = option.value.as_str();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    if path.len() < 2 || !path.starts_with('/') || !path.chars().all(plain) || path == "/live" {
        return Err(wrong(
            option,
            "a path such as /live/fleet, of letters, digits and / - _ . ~; /live itself is taken",
        ));
    }
    Ok(path.to_owned())
}

fn duration(option: &ViewOption) -> Result<i64, PlanError> {
    millis(option).ok_or_else(|| wrong(option, "milliseconds, or a duration such as \"60s\" or \"5m\""))
}

fn positive(option: &ViewOption) -> Result<i64, PlanError> {
    millis(option).filter(|ms| *ms > 0).ok_or_else(|| wrong(option, "a duration above 0, such as \"60s\""))
}

fn millis(option: &ViewOption) -> Option<i64> {
    i64::try_from(duration::parse_text(&option.value)?.as_millis()).ok()
}

fn flag(option: &ViewOption) -> Result<bool, PlanError> {
    match option.value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(option, "TRUE or FALSE")),
    }
}

#[cfg(test)]
mod tests {
    use super::ViewOptions;
    use crate::sql::ast::VIEW_OPTIONS;
    use crate::sql::parse_view;

    #[test]
    fn every_option_is_read_and_only_it_changes() {
        let read = |options: &str| {
            let create =
                parse_view(&format!("CREATE VIEW v {options} AS SELECT a FROM s GROUP BY a, TUMBLINGWINDOW(ss, 1)"));
            format!("{:?}", ViewOptions::read(&create.unwrap()).unwrap())
        };
        let all: Vec<String> = VIEW_OPTIONS
            .iter()
            .map(|name| {
                let value = match *name {
                    "CLAIMS" => "a=b",
                    "PATH" => "/p",
                    "EVENT_TIME" => "true",
                    "KEY" | "PARAMS" => "a",
                    _ => "7",
                };
                read(&format!("WITH ({name} = \"{value}\")"))
            })
            .collect();
        for (place, (name, one)) in VIEW_OPTIONS.iter().zip(&all).enumerate() {
            assert_ne!(*one, read(""), "{name} is not read");
            assert!(!all[..place].contains(one), "{name} is read as another option");
        }
    }
}
