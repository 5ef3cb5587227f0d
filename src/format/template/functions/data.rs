//! sprig's functions of lists and dictionaries.

use super::{Function, MANY, MAX_ELEMENTS, elements, is_true, list, made, members, object, print, same, size, text};
use crate::value::{Object, Text, Value};

pub const FUNCTIONS: &[Function] = &[
    Function::new("list", (0, MANY), |args| list(args.iter().cloned())),
    Function::new("tuple", (0, MANY), |args| list(args.iter().cloned())),
    Function::new("first", (1, 1), |args| Ok(elements(&args[0])?.first().cloned().unwrap_or(Value::Null))),
    Function::new("last", (1, 1), |args| Ok(elements(&args[0])?.last().cloned().unwrap_or(Value::Null))),
    Function::new("rest", (1, 1), |args| list(elements(&args[0])?.iter().skip(1).cloned())),
    Function::new("initial", (1, 1), |args| {
        let all = elements(&args[0])?;
        list(all[..all.len().saturating_sub(1)].iter().cloned())
    }),
    Function::new("append", (2, 2), |args| list(elements(&args[0])?.iter().chain([&args[1]]).cloned())),
    Function::new("push", (2, 2), |args| list(elements(&args[0])?.iter().chain([&args[1]]).cloned())),
    Function::new("prepend", (2, 2), |args| list([&args[1]].into_iter().chain(elements(&args[0])?).cloned())),
    Function::new("concat", (0, MANY), |args| {
        let mut all = Vec::new();
        for arg in args {
            all.extend(elements(arg)?.iter().take(MAX_ELEMENTS + 1).cloned());
        }
        list(all)
    }),
    Function::new("reverse", (1, 1), |args| list(elements(&args[0])?.iter().rev().cloned())),
    Function::new("uniq", (1, 1), |args| {
        let mut kept: Vec<Value> = Vec::new();
        for value in elements(&args[0])?.iter().take(10_000) {
            if !kept.iter().any(|known| same(known, value)) {
                kept.push(value.clone());
            }
        }
        list(kept)
    }),
    Function::new("without", (1, MANY), |args| {
        let unwanted = |value: &&Value| !args[1..].iter().any(|unwanted| same(unwanted, value));
        list(elements(&args[0])?.iter().filter(unwanted).cloned())
    }),
    Function::new("has", (2, 2), |args| Ok(Value::Bool(elements(&args[1])?.iter().any(|value| same(value, &args[0]))))),
    Function::new("compact", (1, 1), |args| list(elements(&args[0])?.iter().filter(|value| is_true(value)).cloned())),
    Function::new("chunk", (2, 2), |args| {
        let chunks = elements(&args[1])?.chunks(size(&args[0], MAX_ELEMENTS).max(1));
        list(chunks.map(|chunk| Value::array(chunk.iter().cloned())))
    }),
    Function::new("dict", (0, MANY), |args| {
        let pair =
            |pair: &[Value]| (Text::from(text(&pair[0])), pair.get(1).cloned().unwrap_or_else(|| Value::from("")));
        Ok(object(args.chunks(2).map(pair)))
    }),
    Function::new("get", (2, 2), |args| {
        Ok(members(&args[0])?.get(text(&args[1]).as_str()).cloned().unwrap_or_else(|| Value::from("")))
    }),
    Function::new("set", (3, 3), |args| {
        let mut changed = members(&args[0])?.clone();
        changed.insert(Text::from(text(&args[1])), args[2].clone());
        Ok(object(changed))
    }),
    Function::new("unset", (2, 2), |args| {
        let gone = text(&args[1]);
        Ok(without(members(&args[0])?, |key| key == gone))
    }),
    Function::new("hasKey", (2, 2), |args| Ok(Value::Bool(members(&args[0])?.contains_key(text(&args[1]).as_str())))),
    Function::new("pluck", (1, MANY), |args| {
        let key = text(&args[0]);
        let mut values = Vec::new();
        for arg in &args[1..] {
            values.extend(members(arg)?.get(key.as_str()).cloned());
        }
        list(values)
    }),
    Function::new("dig", (3, MANY), |args| {
        let (keys, rest) = args.split_at(args.len() - 2);
        let mut value = rest[1].clone();
        for key in keys {
            let found = match &*crate::format::json::expand(&value) {
                Value::Object(members) => members.get(text(key).as_str()).cloned(),
                _ => None,
            };
            match found {
                Some(found) => value = found,
                None => return Ok(rest[0].clone()),
            }
        }
        Ok(value)
    }),
    Function::new("keys", (0, MANY), |args| {
        let mut keys = Vec::new();
        for arg in args {
            let mut of: Vec<&Text> = members(arg)?.keys().collect();
            of.sort_unstable();
            keys.extend(of.into_iter().map(|key| Value::Text(key.clone())));
        }
        list(keys)
    }),
    Function::new("values", (1, 1), |args| {
        // In the same order as `keys`.
        let mut of: Vec<(&Text, &Value)> = members(&args[0])?.iter().collect();
        of.sort_unstable_by_key(|(key, _)| *key);
        list(of.into_iter().map(|(_, value)| value.clone()))
    }),
    Function::new("pick", (1, MANY), |args| {
        let keys: Vec<String> = args[1..].iter().map(text).collect();
        Ok(without(members(&args[0])?, |key| !keys.iter().any(|wanted| wanted == key)))
    }),
    Function::new("omit", (1, MANY), |args| {
        let keys: Vec<String> = args[1..].iter().map(text).collect();
        Ok(without(members(&args[0])?, |key| keys.iter().any(|unwanted| unwanted == key)))
    }),
    Function::new("merge", (1, MANY), |args| merged(args, false)),
    Function::new("mustMerge", (1, MANY), |args| merged(args, false)),
    Function::new("mustMergeOverwrite", (1, MANY), |args| merged(args, true)),
    Function::new("mergeOverwrite", (1, MANY), |args| merged(args, true)),
    Function::new("deepCopy", (1, 1), |args| Ok(args[0].clone())),
    Function::new("base", (1, 1), |args| {
        let path = text(&args[0]);
        made(match path.trim_end_matches('/').rsplit('/').next() {
            Some("") | None if path.is_empty() => ".",
            Some("") | None => "/",
            Some(name) => name,
        })
    }),
    Function::new("dir", (1, 1), |args| {
        let path = text(&args[0]);
        made(match path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((dir, _)) => dir,
            None => ".",
        })
    }),
    Function::new("ext", (1, 1), |args| {
        let path = text(&args[0]);
        let name = path.rsplit('/').next().unwrap_or_default();
        made(name.rfind('.').map_or("", |dot| &name[dot..]))
    }),
    Function::new("isAbs", (1, 1), |args| Ok(Value::Bool(text(&args[0]).starts_with('/')))),
    Function::new("toDate", (2, 2), super::date::parsed),
    Function::new("typeName", (1, 1), |args| made(print::type_name(&args[0]))),
];

fn without(members: &Object, unwanted: impl Fn(&str) -> bool) -> Value {
    object(members.iter().filter(|(key, _)| !unwanted(key)).map(|(key, value)| (key.clone(), value.clone())))
}

fn merged(args: &[Value], overwrite: bool) -> Result<Value, String> {
    let mut all = members(&args[0])?.clone();
    for arg in &args[1..] {
        merge_into(&mut all, members(arg)?, overwrite);
    }
    Ok(object(all))
}

/// Nested dictionaries are merged too.
fn merge_into(all: &mut Object, more: &Object, overwrite: bool) {
    for (key, value) in more {
        match (all.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(more)) => {
                merge_into(std::sync::Arc::make_mut(inner), more, overwrite);
            }
            (Some(known), _) if !overwrite && is_true(known) => {}
            _ => {
                all.insert(key.clone(), value.clone());
            }
        }
    }
}
