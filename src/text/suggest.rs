//! "Did you mean …?": the known name that is nearest to one that is not known.
//!
//! Names are compared without case, and by slips: a letter too many, missing, wrong, or two exchanged. Up to two slips
//! count, and fewer than half of the name's letters.

/// The name that was perhaps meant. What is equal to `written` is no answer, in another case it is.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long texts are no misspelt names, and comparing them would cost.
    if written.len() > 32 {
        return None;
    }
    let lower = written.to_lowercase();
    names
        .into_iter()
        .filter(|name| *name != written && name.len() <= 64)
        .map(|name| (strsim::osa_distance(&lower, &name.to_lowercase()), name))
        .filter(|(slips, name)| *slips <= 2 && slips * 2 < name.len().max(1))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// The hint with the name that was perhaps meant.
pub fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, names).map(|name| format!("did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_are_found() {
        for (written, names, found) in [
            ("form", &["FROM", "WHERE"][..], Some("FROM")),
            ("x", &["AS", "FROM"], None),
            ("FROM", &["FROM"], None),
            ("from", &["FROM"], Some("FROM")),
            ("temprature", &["humidity", "temperature"], Some("temperature")),
            ("ab", &["cd"], None),
            ("", &["a"], None),
        ] {
            assert_eq!(nearest(written, names.iter().copied()), found, "{written}");
        }
        assert_eq!(did_you_mean("sume", ["sum"]).as_deref(), Some("did you mean sum?"));
    }
}
