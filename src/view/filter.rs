//! The part of a view that a client sees: its parameters and claims, typed and normalized.

use std::hash::{Hash, Hasher};

use serde_json::{Map, Value as Json};
use smallvec::SmallVec;

use super::client::{ClientError, ErrorCode};
use super::description::{ColumnType, Description};
use super::form::{Form, ParamValue};
use super::lives::PartKey;
use super::rate::Rate;
use crate::value::Text;

/// The most combinations of values in one subscription.
pub const COMBINATIONS: usize = 1000;

/// A part column with the values that a claim allows.
type Claimed = (Text, Box<[Text]>);

/// The part of a client. Equal parts have equal filters: values are compared by their forms.
///
/// Many clients have parameters of their own, so this takes no more memory than it needs.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// parameters by name, with distinct values
    params: Box<[(Text, Box<[ParamValue]>)]>,
    /// part columns with the values of the claims
    claims: Box<[Claimed]>,
}

impl Filter {
    /// What makes two filters equal.
    fn forms(&self) -> impl Iterator<Item = (&Text, impl Iterator<Item = &Form>)> {
        self.params.iter().map(|(name, values)| (name, values.iter().map(|value| &value.form)))
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.params.len() == other.params.len()
            && self.claims == other.claims
            && self.forms().zip(other.forms()).all(|((name, forms), (known, others))| name == known && forms.eq(others))
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (name, forms) in self.forms() {
            name.hash(state);
            forms.for_each(|form| form.hash(state));
        }
        self.claims.hash(state);
    }
}

/// What clients of one cohort ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    pub filter: Filter,
    pub every: Rate,
}

impl Filter {
    /// Parses the parameters of a client.
    ///
    /// # Errors
    /// [`ClientError`] for an invalid parameter.
    pub fn resolve(
        about: &Description,
        sent: &[(Text, Vec<Json>)],
        claims: Option<&Map<String, Json>>,
    ) -> Result<Filter, ClientError> {
        let mut params: Vec<(Text, Box<[ParamValue]>)> = Vec::new();
        for (name, values) in sent {
            let part = about.parts.iter().find(|part| part.is_param && part.name == *name);
            let Some(part) = part else { return Err(unknown(about, name)) };
            let mut typed: Vec<ParamValue> = Vec::new();
            for value in values {
                let Some(value) = ParamValue::read(part.ty, value) else {
                    let shown: String = value.to_string().chars().take(60).collect();
                    let message = format!("parameter {name}: {shown} is not a value of type {}", part.ty);
                    return Err(ClientError::new(ErrorCode::BadParam, message));
                };
                typed.push(value);
            }
            if typed.is_empty() {
                let message = format!("parameter {name} has no value; leave it out to see all rows");
                return Err(ClientError::new(ErrorCode::BadParam, message));
            }
            typed.sort_by(ParamValue::order);
            typed.dedup_by(|a, b| a.form == b.form);
            params.push((name.clone(), typed.into()));
        }
        params.sort_by(|(a, _), (b, _)| a.cmp(b));
        let filter = Filter { params: params.into(), claims: read_claims(about, claims)?.into() };
        let combinations = filter.columns(about).iter().fold(1usize, |all, (_, forms)| all.saturating_mul(forms.len()));
        if combinations > COMBINATIONS {
            let message = format!(
                "the parameters have {combinations} combinations of values, and {COMBINATIONS} are allowed; subscribe to \
                 the view in several parts"
            );
            return Err(ClientError::new(ErrorCode::TooManyValues, message));
        }
        Ok(filter)
    }

    /// The same part after the view was redefined.
    pub fn again(&self, about: &Description) -> Result<Filter, ClientError> {
        let json = |values: &[ParamValue]| values.iter().map(|value| value.json.clone()).collect();
        let sent: Vec<(Text, Vec<Json>)> =
            self.params.iter().map(|(name, values)| (name.clone(), json(values))).collect();
        let mut claims = Map::new();
        for (column, values) in self.claims.iter() {
            // The claims must fix the same columns as before, otherwise the client has to send its token again.
            let claim = about.parts.iter().find(|part| part.name == *column).and_then(|part| part.claim.as_deref());
            if let Some(claim) = claim {
                claims.insert(claim.to_owned(), values.iter().map(|value| Json::from(value.as_str())).collect());
            }
        }
        Filter::resolve(about, &sent, Some(&claims))
    }

    /// The parameters as JSON: a value, or a list of several.
    pub fn params_json(&self) -> Map<String, Json> {
        let value = |values: &[ParamValue]| match values {
            [value] => value.json.clone(),
            values => values.iter().map(|value| value.json.clone()).collect(),
        };
        self.params.iter().map(|(name, values)| (name.to_string(), value(values))).collect()
    }

    /// The memory that a subscription to this part takes for its parameters, bytes, estimated.
    pub fn bytes(&self) -> usize {
        let params = self.params.iter().map(|(_, values)| values);
        let forms = params.clone().flatten().map(|value| value.form.as_ref().map_or(0, |form| form.len()));
        held(forms, params.map(|values| values.len()))
    }

    /// The same for its claims, which are those of the socket's token: whoever signs tokens chooses them.
    pub fn claim_bytes(&self) -> usize {
        let claims = self.claims.iter().map(|(_, values)| values);
        held(claims.clone().flatten().map(|value| value.len()), claims.map(|values| values.len()))
    }

    /// The fixed columns, by their ascending positions among the part columns, with the allowed forms.
    fn columns(&self, about: &Description) -> Vec<(u8, Vec<Form>)> {
        let mut columns: Vec<(u8, Vec<Form>)> = Vec::new();
        for (place, part) in about.parts.iter().enumerate() {
            let param = self.params.iter().find(|(name, _)| *name == part.name && part.is_param);
            let param = param.map(|(_, values)| values.iter().map(|value| value.form.clone()).collect::<Vec<Form>>());
            let claim = self.claims.iter().find(|(name, _)| *name == part.name);
            let claim = claim.map(|(_, values)| values.iter().cloned().map(Some).collect::<Vec<Form>>());
            let forms = match (param, claim) {
                (None, None) => continue,
                (Some(forms), None) | (None, Some(forms)) => forms,
                (Some(forms), Some(claimed)) => forms.into_iter().filter(|form| claimed.contains(form)).collect(),
            };
            columns.push((place as u8, forms));
        }
        columns
    }

    /// The division and the keys of the parts that the client sees.
    pub fn parts(&self, about: &Description) -> (SmallVec<[u8; 4]>, Vec<PartKey>) {
        let columns = self.columns(about);
        let mut keys = vec![PartKey::new()];
        for (_, forms) in &columns {
            let with = |key: &PartKey, form: &Form| {
                let mut key = key.clone();
                key.push(form.clone());
                key
            };
            keys = keys.iter().flat_map(|key| forms.iter().map(move |form| with(key, form))).collect();
        }
        (columns.iter().map(|(place, _)| *place).collect(), keys)
    }
}

/// The memory for values of these lengths, and for their combinations, bytes.
fn held(lengths: impl Iterator<Item = usize>, values: impl Iterator<Item = usize>) -> usize {
    /// of a value, in the filter, its cohort and the parts of the view
    const VALUE: usize = 256;
    /// of each byte of a value
    const COPIES: usize = 4;
    let combinations = values.fold(1usize, usize::saturating_mul).min(COMBINATIONS);
    lengths.map(|length| VALUE + COPIES * length).sum::<usize>() + combinations * VALUE
}

fn read_claims(about: &Description, claims: Option<&Map<String, Json>>) -> Result<Vec<Claimed>, ClientError> {
    let mut read = Vec::new();
    for part in &about.parts {
        let Some(claim) = &part.claim else { continue };
        let forbidden = || {
            let message = format!("view {} is for clients whose token has the claim {claim}", about.name);
            ClientError::new(ErrorCode::Forbidden, message)
        };
        let text = |value: &Json| match value {
            Json::Null | Json::Array(_) | Json::Object(_) => None,
            value => {
                // Equal times have one form. Other values of such a column are compared as text.
                let time = (part.ty == ColumnType::Datetime).then(|| ParamValue::read(part.ty, value)).flatten();
                time.or_else(|| ParamValue::read(ColumnType::Any, value))?.form
            }
        };
        let mut values = match claims.and_then(|claims| claims.get(claim.as_str())) {
            Some(Json::Array(values)) => {
                values.iter().map(text).collect::<Option<Vec<Text>>>().ok_or_else(forbidden)?
            }
            Some(value) => vec![text(value).ok_or_else(forbidden)?],
            None => return Err(forbidden()),
        };
        values.sort_unstable();
        values.dedup();
        read.push((part.name.clone(), values.into()));
    }
    Ok(read)
}

fn unknown(about: &Description, name: &str) -> ClientError {
    let known: Vec<&str> = about.parts.iter().filter(|part| part.is_param).map(|part| part.name.as_str()).collect();
    let shown: String = name.chars().take(60).collect();
    let message = if known.is_empty() {
        format!("view {} has no parameter {shown}: it has none at all", about.name)
    } else {
        format!("view {} has no parameter {shown}; it has {}", about.name, known.join(", "))
    };
    ClientError::new(ErrorCode::UnknownParam, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::value::Value;
    use crate::value::key::KeyPart;
    use crate::view::PartColumn;
    use crate::view::form::form_in_column;

    #[test]
    fn a_claim_matches_the_same_time_however_it_is_written() {
        let (ty, name) = (ColumnType::Datetime, Text::from("at"));
        let part = PartColumn { name: name.clone(), ty, in_key: Some(0), is_param: false, claim: Some(name) };
        let about = Description { parts: vec![part], ..Description::default() };
        let seen = |claim: Json| {
            let claims = Map::from_iter([("at".to_owned(), claim)]);
            let filter = Filter::resolve(&about, &[], Some(&claims)).expect("the token has the claim");
            filter.parts(&about).1
        };
        let row =
            |value: Value| vec![PartKey::from_iter([form_in_column(ty, &KeyPart::of(&value)).expect("a scalar")])];
        let time = row(Value::from("2026-01-01T00:00:00Z"));
        let (text, ms) = ("2026-01-01T01:00:00+01:00", 1_767_225_600_000_i64);
        for claim in [json!(text), json!(ms), json!(ms.to_string()), json!([text])] {
            assert_eq!(seen(claim.clone()), time, "{claim}");
        }
        assert_eq!(seen(json!("soon")), row(Value::from("soon")));
    }
}
