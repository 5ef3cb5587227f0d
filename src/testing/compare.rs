//! Compares the sent results with the expected ones.
//!
//! Numbers are equal if their values are: `1` and `1.0`. The text `any` matches any present value.

use std::collections::BTreeSet;

use serde_json::Value as Json;

/// Matches any value.
pub const ANY: &str = "any";

/// The most pairs that are compared to find the best alignment. Longer lists are compared entry by entry.
const MOST_PAIRS: usize = 4_000_000;

/// How results are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// messages, and the rows in each, may come in any order
    pub unordered: bool,
    /// objects may have members that are not expected
    pub subset: bool,
    /// members whose value does not matter
    pub any: Vec<String>,
}

/// A value in a message that differs from the expected one.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// its path: `[0].temperature`; empty: the message itself
    pub path: String,
    /// the expected value, `None` if none was expected
    pub expected: Option<Json>,
    /// the sent value, if there is one
    pub sent: Option<Json>,
}

/// One line of the comparison of two lists, by their indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// both are the same
    Same { expected: usize, sent: usize },
    /// one was sent in place of the other
    Differs { expected: usize, sent: usize },
    /// expected but not sent
    Missing { expected: usize },
    /// sent but not expected
    Unexpected { sent: usize },
}

/// Whether a value matches the expected one.
pub fn fits(expected: &Json, sent: &Json, how: &Matching) -> bool {
    let mut found = Vec::new();
    compare(expected, sent, how, "", true, &mut found);
    found.is_empty()
}

/// The differences within a value.
pub fn differences(expected: &Json, sent: &Json, how: &Matching) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(expected, sent, how, "", true, &mut found);
    found
}

/// Aligns the sent results with the expected ones, so that as many as possible match.
pub fn align(expected: usize, sent: usize, how: &Matching, same: impl Fn(usize, usize) -> bool) -> Vec<Line> {
    let pairs = if how.unordered { pair(expected, sent, &same) } else { in_order(expected, sent, &same) };
    let mut lines = Vec::new();
    let taken: BTreeSet<usize> = pairs.iter().flatten().copied().collect();
    let mut free = (0..sent).filter(|index| !taken.contains(index)).peekable();
    for (index, pair) in pairs.iter().enumerate() {
        match pair {
            Some(found) => {
                if !how.unordered {
                    lines.extend(
                        std::iter::from_fn(|| free.next_if(|free| free < found)).map(|sent| Line::Unexpected { sent }),
                    );
                }
                lines.push(Line::Same { expected: index, sent: *found });
            }
            None => {
                // Entries before the next pair are compared one by one.
                let next = if how.unordered { None } else { pairs[index..].iter().flatten().next().copied() };
                let line = match free.next_if(|free| next.is_none_or(|next| *free < next)) {
                    Some(sent) => Line::Differs { expected: index, sent },
                    None => Line::Missing { expected: index },
                };
                lines.push(line);
            }
        }
    }
    lines.extend(free.map(|sent| Line::Unexpected { sent }));
    lines
}

/// Finds the sent entry for each expected one; both are in order. Equal entries at both ends are paired first: usually
/// these are nearly all.
fn in_order(expected: usize, sent: usize, same: &impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    let least = expected.min(sent);
    let begin = (0..least).take_while(|index| same(*index, *index)).count();
    let end = (0..least - begin).take_while(|back| same(expected - 1 - back, sent - 1 - back)).count();
    let middle = common(expected - begin - end, sent - begin - end, &|e, s| same(begin + e, begin + s));
    let head = (0..begin).map(Some);
    let tail = (0..end).map(|index| Some(sent - end + index));
    head.chain(middle.into_iter().map(|pair| pair.map(|s| begin + s))).chain(tail).collect()
}

/// The longest common subsequence.
fn common(expected: usize, sent: usize, same: &impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    if expected.saturating_mul(sent) > MOST_PAIRS {
        return (0..expected).map(|index| (index < sent && same(index, index)).then_some(index)).collect();
    }
    // longest[e][s]: the length for the entries from e and s on.
    let mut longest = vec![vec![0u32; sent + 1]; expected + 1];
    let mut equal = vec![vec![false; sent]; expected];
    for e in (0..expected).rev() {
        for s in (0..sent).rev() {
            equal[e][s] = same(e, s);
            longest[e][s] = match equal[e][s] {
                true => longest[e + 1][s + 1] + 1,
                false => longest[e + 1][s].max(longest[e][s + 1]),
            };
        }
    }
    let (mut pairs, mut s) = (vec![None; expected], 0);
    for e in 0..expected {
        let wanted = longest[e][s];
        if longest[e + 1][s] == wanted {
            continue;
        }
        while s < sent && !(equal[e][s] && longest[e + 1][s + 1] + 1 == wanted) {
            s += 1;
        }
        if s < sent {
            pairs[e] = Some(s);
            s += 1;
        }
    }
    pairs
}

/// Pairs each expected entry with a sent one; each is used once, and the number of pairs is the greatest possible
/// (augmenting paths).
fn pair(expected: usize, sent: usize, same: &impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    let fitting: Vec<Vec<usize>> = (0..expected).map(|e| (0..sent).filter(|s| same(e, *s)).collect()).collect();
    let mut owner: Vec<Option<usize>> = vec![None; sent];
    for e in 0..expected {
        augment(e, &fitting, &mut owner, &mut vec![false; sent]);
    }
    let mut pairs = vec![None; expected];
    for (sent, owner) in owner.into_iter().enumerate() {
        if let Some(expected) = owner {
            pairs[expected] = Some(sent);
        }
    }
    pairs
}

fn augment(e: usize, fitting: &[Vec<usize>], owner: &mut [Option<usize>], seen: &mut [bool]) -> bool {
    // Depth first without recursion, since lists may be long.
    let mut path: Vec<(usize, usize)> = vec![(e, 0)];
    while let Some((e, next)) = path.last_mut() {
        let Some(&s) = fitting[*e].get(*next) else {
            path.pop();
            continue;
        };
        *next += 1;
        if std::mem::replace(&mut seen[s], true) {
            continue;
        }
        match owner[s] {
            Some(other) => path.push((other, 0)),
            None => {
                // Each step of the path takes the entry that it tried last.
                for (e, next) in path {
                    owner[fitting[e][next - 1]] = Some(e);
                }
                return true;
            }
        }
    }
    false
}

fn compare(expected: &Json, sent: &Json, how: &Matching, path: &str, top: bool, found: &mut Vec<Difference>) {
    if expected.as_str() == Some(ANY) {
        return;
    }
    match (expected, sent) {
        (Json::Object(wanted), Json::Object(there)) => {
            for (name, wanted) in wanted {
                let path = member_path(path, name);
                match there.get(name) {
                    Some(_) if how.any.contains(name) => {}
                    Some(there) => compare(wanted, there, how, &path, false, found),
                    None => found.push(Difference { path, expected: Some(wanted.clone()), sent: None }),
                }
            }
            let more = there.iter().filter(|(name, _)| !wanted.contains_key(*name));
            for (name, there) in more.filter(|(name, _)| !how.subset && !how.any.contains(name)) {
                let path = member_path(path, name);
                found.push(Difference { path, expected: None, sent: Some(there.clone()) });
            }
        }
        (Json::Array(wanted), Json::Array(there)) => {
            let rows = Matching { unordered: how.unordered && top, ..how.clone() };
            if rows.unordered {
                let same = |e: usize, s: usize| {
                    let mut differs = Vec::new();
                    compare(&wanted[e], &there[s], how, "", false, &mut differs);
                    differs.is_empty()
                };
                for line in align(wanted.len(), there.len(), &rows, same) {
                    element(line, wanted, there, how, path, found);
                }
            } else {
                for index in 0..wanted.len().max(there.len()) {
                    let line = match (index < wanted.len(), index < there.len()) {
                        (true, true) => Line::Differs { expected: index, sent: index },
                        (true, false) => Line::Missing { expected: index },
                        _ => Line::Unexpected { sent: index },
                    };
                    element(line, wanted, there, how, path, found);
                }
            }
        }
        (Json::Number(wanted), Json::Number(there)) if number_eq(wanted, there) => {}
        (wanted, there) if wanted == there => {}
        (wanted, there) => {
            let (expected, sent) = (Some(wanted.clone()), Some(there.clone()));
            found.push(Difference { path: path.to_owned(), expected, sent });
        }
    }
}

fn element(line: Line, wanted: &[Json], there: &[Json], how: &Matching, path: &str, found: &mut Vec<Difference>) {
    let at = |index: usize| format!("{path}[{index}]");
    match line {
        Line::Same { .. } => {}
        Line::Differs { expected, sent } => {
            compare(&wanted[expected], &there[sent], how, &at(sent), false, found);
        }
        Line::Missing { expected } => {
            found.push(Difference { path: at(expected), expected: Some(wanted[expected].clone()), sent: None });
        }
        Line::Unexpected { sent } => {
            found.push(Difference { path: at(sent), expected: None, sent: Some(there[sent].clone()) });
        }
    }
}

fn member_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn number_eq(one: &serde_json::Number, other: &serde_json::Number) -> bool {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one == other,
        _ => match (one.as_u64(), other.as_u64()) {
            (Some(one), Some(other)) => one == other,
            _ => one.as_f64() == other.as_f64(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn how(unordered: bool, subset: bool, any: &[&str]) -> Matching {
        Matching { unordered, subset, any: any.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn what_is_equal() {
        let exact = how(false, false, &[]);
        for (expected, sent, how, equal) in [
            (json!({"a": 1}), json!({"a": 1.0}), &exact, true),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), &exact, false),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), &how(false, true, &[]), true),
            (json!([{"a": {"b": 1}}]), json!([{"a": {"b": 1, "c": 2}}]), &how(false, true, &[]), true),
            (json!({"a": "any"}), json!({"a": [1]}), &exact, true),
            (json!({"a": "any"}), json!({}), &exact, false),
            (json!({"a": 1}), json!({"a": 2, "t": 5}), &how(false, false, &["a", "t"]), true),
            (json!([1, 2]), json!([2, 1]), &exact, false),
            (json!([1, 2]), json!([2, 1]), &how(true, false, &[]), true),
            // Rows may come in any order, but not the elements of an array in a row.
            (json!([{"a": [1, 2]}]), json!([{"a": [2, 1]}]), &how(true, false, &[]), false),
            // The entry that fits both is left to the one that fits only it.
            (json!(["any", 1]), json!([1, 2]), &how(true, false, &[]), true),
            (json!("a"), json!("b"), &exact, false),
            (json!(9007199254740993i64), json!(9007199254740992i64), &exact, false),
        ] {
            assert_eq!(fits(&expected, &sent, how), equal, "{expected} {sent} {how:?}");
        }
    }

    #[test]
    fn differences_have_paths() {
        let found =
            differences(&json!([{"a": {"b": 1}, "c": 2}]), &json!([{"a": {"b": 3}, "d": 4}]), &Matching::default());
        let shown: Vec<_> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(shown, ["[0].a.b", "[0].c", "[0].d"]);
        assert_eq!((&found[1].expected, &found[2].sent), (&Some(json!(2)), &Some(json!(4))));
    }

    #[test]
    fn lists_are_put_beside_each_other() {
        let lines = |expected: &str, sent: &str, unordered: bool| {
            let (expected, sent): (Vec<char>, Vec<char>) = (expected.chars().collect(), sent.chars().collect());
            let lines = align(expected.len(), sent.len(), &how(unordered, false, &[]), |e, s| expected[e] == sent[s]);
            let shown = lines.iter().map(|line| match line {
                Line::Same { expected: e, .. } => format!("={}", expected[*e]),
                Line::Differs { expected: e, sent: s } => format!("{}/{}", expected[*e], sent[*s]),
                Line::Missing { expected: e } => format!("-{}", expected[*e]),
                Line::Unexpected { sent: s } => format!("+{}", sent[*s]),
            });
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(lines("abc", "abc", false), "=a =b =c");
        assert_eq!(lines("abc", "ac", false), "=a -b =c");
        assert_eq!(lines("ac", "abc", false), "=a +b =c");
        assert_eq!(lines("abc", "axc", false), "=a b/x =c");
        assert_eq!(lines("", "ab", false), "+a +b");
        assert_eq!(lines("ab", "ba", true), "=a =b");
        assert_eq!(lines("abc", "cxa", true), "=a b/x =c");
        assert_eq!(lines("ab", "xaby", false), "+x =a =b +y");
    }
}
