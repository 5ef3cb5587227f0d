//! Masks secrets in definitions that are shown or exported, and restores them when a masked definition comes back.
//!
//! The service keeps texts with their secrets; [`crate::text::secret`] decides what is masked.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::error::ServiceError;
use super::transfer::{Everything, Ruleset};
use super::{Service, locked};
use crate::sql::parse_create;
use crate::text::secret::{self, HIDDEN, masked_json, masked_sets_json, masked_url, restored_json, restored_sets_json};

/// A statement with its secrets masked; without secrets, the statement as written.
pub fn masked_statement(sql: &str) -> Cow<'_, str> {
    let Ok(mut create) = parse_create(sql) else { return Cow::Borrowed(sql) };
    let mut any = false;
    for option in &mut create.options {
        let masked = match option.name {
            "EXTRA" => masked_json(&option.value),
            "DATASOURCE" => masked_url(&option.value),
            _ => continue,
        };
        if let Cow::Owned(masked) = masked {
            (option.value, any) = (masked.into(), true);
        }
    }
    if any { Cow::Owned(create.to_string()) } else { Cow::Borrowed(sql) }
}

/// A statement with masked values replaced by those of an old one.
fn restored_statement<'a>(sql: &'a str, old: Option<&str>) -> Result<Cow<'a, str>, secret::NothingHidden> {
    if !sql.contains(HIDDEN) {
        return Ok(Cow::Borrowed(sql));
    }
    // Executing the statement reports its errors.
    let Ok(mut create) = parse_create(sql) else { return Ok(Cow::Borrowed(sql)) };
    let old = old.and_then(|old| parse_create(old).ok());
    let mut any = false;
    for option in &mut create.options {
        let before = old.iter().flat_map(|old| &old.options).rfind(|before| before.name == option.name);
        let before = before.map(|before| before.value.as_str());
        let restored = match option.name {
            "EXTRA" => restored_json(&option.value, before)?,
            "DATASOURCE" if option.value.contains(HIDDEN) => {
                match before.filter(|before| masked_url(before) == option.value.as_str()) {
                    Some(before) => Cow::Owned(before.to_owned()),
                    None => return Err(secret::NothingHidden::Unknown("DATASOURCE".to_owned())),
                }
            }
            _ => continue,
        };
        if let Cow::Owned(restored) = restored {
            (option.value, any) = (restored.into(), true);
        }
    }
    Ok(if any { Cow::Owned(create.to_string()) } else { Cow::Borrowed(sql) })
}

/// Properties with masked values replaced by those of old ones.
///
/// # Errors
/// The text names the property that has no old value.
pub(super) fn restored_props(
    new: Map<String, Json>,
    old: Option<&Map<String, Json>>,
) -> Result<Map<String, Json>, String> {
    let (mut new, old) = (Json::Object(new), old.map(|old| Json::Object(old.clone())));
    secret::restore(&mut new, old.as_ref()).map_err(|error| error.to_string())?;
    match new {
        Json::Object(props) => Ok(props),
        _ => Ok(Map::new()),
    }
}

impl Service {
    /// The text of a rule with masked values replaced by those of the existing rule.
    ///
    /// # Errors
    /// [`ServiceError::RuleJson`] for a masked value that has no old value.
    pub(super) fn restored_rule<'a>(&self, id: &str, text: &'a str) -> Result<Cow<'a, str>, ServiceError> {
        if !text.contains(HIDDEN) {
            return Ok(Cow::Borrowed(text));
        }
        let old = locked(&self.inner.rules).get(id).map(|entry| entry.text());
        restored_json(text, old.as_deref()).map_err(|error| ServiceError::RuleJson(error.to_string()))
    }

    /// The same for the statement of a stream or table.
    ///
    /// # Errors
    /// [`ServiceError::Statement`] for a masked value that has no old value.
    pub(super) fn restored_relation<'a>(&self, name: &str, sql: &'a str) -> Result<Cow<'a, str>, ServiceError> {
        let old = locked(&self.inner.relations).sql(name);
        restored_statement(sql, old.as_deref()).map_err(|error| ServiceError::Statement(error.to_string()))
    }

    /// Replaces masked values in an import by existing ones. An item with a masked value that has no old value moves
    /// from `all` to the result.
    pub(super) fn restore_import(&self, all: &mut Everything) -> Everything {
        let mut refused = Everything::default();
        let Ruleset { streams, tables, rules, .. } = &mut all.ruleset;
        for (kind, failed) in [(streams, &mut refused.ruleset.streams), (tables, &mut refused.ruleset.tables)] {
            each(kind, failed, |name, sql| self.restored_relation(name, sql).map_err(|error| error.to_string()));
        }
        each(rules, &mut refused.ruleset.rules, |id, text| {
            self.restored_rule(id, text).map_err(|error| error.to_string())
        });
        let connections = self.connection_config();
        each(&mut all.connections, &mut refused.connections, |kind, text| {
            let old = connections.get(kind).map(String::as_str);
            restored_sets_json(text, old).map_err(|error| error.to_string())
        });
        for (class, kinds, failed) in
            [("sources", &mut all.sources, &mut refused.sources), ("sinks", &mut all.sinks, &mut refused.sinks)]
        {
            each(kinds, failed, |kind, text| {
                let old = self.conf_keys(class, kind).ok().map(|keys| Json::Object(keys).to_string());
                restored_sets_json(text, old.as_deref()).map_err(|error| error.to_string())
            });
        }
        refused
    }
}

/// Changes each text in a section; refused ones move to `failed` with the reason.
fn each<'a>(
    section: &'a mut BTreeMap<String, String>,
    failed: &mut BTreeMap<String, String>,
    change: impl for<'t> Fn(&str, &'t str) -> Result<Cow<'t, str>, String>,
) {
    section.retain(|name, text| {
        let changed = match change(name, text) {
            Ok(Cow::Borrowed(_)) => None,
            Ok(Cow::Owned(changed)) => Some(changed),
            Err(error) => {
                failed.insert(name.clone(), error);
                return false;
            }
        };
        if let Some(changed) = changed {
            *text = changed;
        }
        true
    });
}

impl Ruleset {
    /// With its secrets masked.
    #[must_use]
    pub fn masked(mut self) -> Ruleset {
        for sql in self.streams.values_mut().chain(self.tables.values_mut()) {
            *sql = masked_statement(sql).into_owned();
        }
        self.rules.values_mut().for_each(|text| *text = masked_json(text).into_owned());
        self
    }
}

impl Everything {
    /// With its secrets masked; uploads stay as they are.
    #[must_use]
    pub fn masked(mut self) -> Everything {
        self.ruleset = self.ruleset.masked();
        for kinds in [&mut self.sources, &mut self.sinks, &mut self.connections] {
            kinds.values_mut().for_each(|text| *text = masked_sets_json(text).into_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_hide_what_is_in_their_options() {
        let sql = r#"CREATE STREAM s () WITH (DATASOURCE="/x?token=abc&a=1", TYPE="websocket", EXTRA="{\"headers\":{\"A\":\"secret\"},\"addr\":\"h:1\"}")"#;
        let shown = masked_statement(sql).into_owned();
        assert!(!shown.contains("abc") && !shown.contains("secret") && shown.contains("h:1"), "{shown}");
        let back = restored_statement(&shown, Some(sql)).expect("it was all there");
        assert_eq!(
            parse_create(&back).map(|create| create.to_string()),
            parse_create(sql).map(|create| create.to_string())
        );
        assert!(restored_statement(&shown, None).is_err());
        let open = "create   stream s () WITH (DATASOURCE=\"/x\")";
        assert_eq!(masked_statement(open), open);
    }
}
