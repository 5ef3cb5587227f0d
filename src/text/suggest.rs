//! "Did you mean …?": finds the known name that is closest to an unknown one.
//!
//! Names are compared regardless of case, by edit distance: an extra, missing or wrong letter, or two letters
//! exchanged. At most two edits are allowed, and fewer than half of the name's letters.

/// The closest name. A name equal to `written` is no suggestion, but one that differs in case is.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long text is not a misspelt name, and comparing it would be slow.
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

/// The hint with the closest name.
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
