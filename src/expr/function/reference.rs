//! Generates `docs/functions.md` from the functions.

use std::fmt::Write;

use super::{Function, Nulls, Param, Returns, all};

/// The reference of all functions in Markdown: a chapter per family, a section per function.
pub fn reference() -> String {
    let mut functions: Vec<_> = all().collect();
    functions.sort_by_key(|function| (function.family, function.name));
    let mut page = String::from(
        "# Functions\n\n\
         <!-- Generated from the function table; `UPDATE_DOCS=1 cargo test --test source` rewrites it. -->\n\n\
         Function names are case-insensitive. An argument in brackets is optional; one with `…` may be repeated. A call \
         that fails drops its message and counts an error; the rule continues. An empty array or object counts as null, \
         unless the function takes arrays or objects.\n",
    );
    let mut family = None;
    for function in functions {
        if family != Some(function.family) {
            family = Some(function.family);
            let _ = write!(page, "\n## {}\n", function.family);
        }
        write_section(&mut page, function);
    }
    page
}

fn write_section(page: &mut String, function: &Function) {
    let _ = write!(page, "\n### {}\n\n`{}`\n\n{}\n", function.name, usage(function), function.doc);
    if !function.aliases.is_empty() {
        let names: Vec<_> = function.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let _ = write!(page, "\nAlso called {}.\n", names.join(", "));
    }
    let null = match function.nulls {
        _ if function.signature.params.is_empty() => "",
        Nulls::Null => "; null for null",
        Nulls::False => "; false for null",
        Nulls::Zero => "; 0 for null",
        Nulls::Own => "",
    };
    let random = if function.deterministic { "" } else { " Equal calls may return different results." };
    let _ = write!(page, "\nReturns {}{null}.{random}\n", returns(function));
    if !function.examples.is_empty() {
        page.push_str("\n| example | result |\n| --- | --- |\n");
        for (call, answer) in function.examples {
            let answer = if answer.is_empty() { "no value".to_owned() } else { format!("`{}`", escaped(answer)) };
            let _ = writeln!(page, "| `{}` | {answer} |", escaped(call));
        }
    }
}

/// The text for a cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The call with names and kinds of its parameters.
pub fn usage(function: &Function) -> String {
    let signature = &function.signature;
    let mut usage = format!("{}(", function.name);
    for (index, (name, param)) in signature.params.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let dots = if signature.variadic && index + 1 == signature.params.len() { " …" } else { "" };
        let _ = if index < signature.required {
            write!(usage, "{comma}{name} {}{dots}", kind(*param))
        } else {
            write!(usage, " [{comma}{name} {}{dots}]", kind(*param))
        };
    }
    usage.push(')');
    usage
}

fn kind(param: Param) -> &'static str {
    match param {
        Param::Any => "any",
        Param::Number => "number",
        Param::Ordered => "number or string",
        Param::Int => "int",
        Param::IntLiteral => "int literal",
        Param::IntOrText => "int or string",
        Param::Text => "string",
        Param::TextLiteral => "string literal",
        Param::Bool => "boolean",
        Param::DateTime => "datetime",
        Param::DateTimeOrText => "datetime or string",
        Param::MetaKey => "metadata key",
        Param::Array => "array",
        Param::Object => "object",
    }
}

fn returns(function: &Function) -> String {
    let returns = match function.returns {
        Returns::Int => "a whole number",
        Returns::Float => "a float",
        Returns::Text => "a string",
        Returns::Bool => "a boolean",
        Returns::Bytes => "bytea, which JSON shows in base64",
        Returns::DateTime => "a datetime",
        Returns::Array => "an array",
        Returns::Object => "an object",
        Returns::SameAs(index) => {
            let name = function.signature.params.get(index).map_or("the argument", |(name, _)| name);
            return format!("a value of the kind of `{name}`");
        }
        Returns::Any => "a value whose kind depends on the arguments",
    };
    returns.to_owned()
}
